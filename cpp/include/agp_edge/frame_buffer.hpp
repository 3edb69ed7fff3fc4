// Memory for a camera to fill, so that scoring needs no copy by the CPU: page-locked for the GPU of
// the engine (which reads it where it is on a Jetson), plain for an engine on the CPU.
//
// Owns     the memory, zero at first; the GPU's context, not the engine.
// Threads  none of its own: whoever fills it waits for score(), which reads it.
// Blocks   the constructor, while pages are locked.
#pragma once

#include <cstddef>
#include <memory>

#include "agp_edge/engine.hpp"
#include "agp_edge/frame.hpp"

namespace agp_edge {

class FrameBuffer {
 public:
  // Rows without gaps. Throws FrameError (geometry), DeviceError.
  FrameBuffer(const Engine& engine, int height, int width, PixelFormat format);
  ~FrameBuffer();
  FrameBuffer(FrameBuffer&&) noexcept;
  FrameBuffer& operator=(FrameBuffer&&) noexcept;

  std::uint8_t* data() noexcept;
  const Frame& frame() const noexcept;  // to be scored, as often as it was filled

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
