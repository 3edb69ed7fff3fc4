// Frame -> network input: region of interest, antialiased resize, channel order, normalise, NCHW.
// The only preprocessing there is: training, evaluation and the line all come through here.
//
// Owns     resampling tables for the last frame geometry, and worker threads.
// Borrows  the frame and the output for the length of run().
// Threads  not re-entrant: one run() at a time on one object.
// Blocks   run() returns when the output is written. It allocates only when the geometry changes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "agp_edge/frame.hpp"

namespace agp_edge {

// Both are separable and half-pixel centred, as PIL, torchvision (antialias=True) and OpenCV are.
//   kAntialias  triangle filter, widened by the scale when shrinking; bilinear when enlarging
//   kArea       mean over the covered area when shrinking (cv2.INTER_AREA); bilinear when enlarging
enum class ResizeRule : std::uint8_t { kAntialias, kArea };
enum class ChannelOrder : std::uint8_t { kRgb, kBgr };

const char* to_string(ResizeRule rule) noexcept;
const char* to_string(ChannelOrder order) noexcept;
ResizeRule resize_rule_from(const std::string& name);      // "antialias", "area"
ChannelOrder channel_order_from(const std::string& name);  // "rgb", "bgr"

struct PreprocessRecipe {
  int height = 0;  // of the network's input
  int width = 0;
  ChannelOrder channels = ChannelOrder::kRgb;       // order of the network's three planes
  std::array<float, 3> mean{{0.0F, 0.0F, 0.0F}};    // 8-bit pixel units, in that order
  std::array<float, 3> stddev{{1.0F, 1.0F, 1.0F}};  // tensor = (pixel - mean) / stddev
  ResizeRule resize = ResizeRule::kAntialias;
  Rect roi;  // frame pixels; empty: the whole frame
};

class Preprocessor {
 public:
  // threads: 0 chooses by the frame's size and the machine's cores, 1 never starts a worker.
  explicit Preprocessor(const PreprocessRecipe& recipe, int threads = 0);
  ~Preprocessor();
  Preprocessor(Preprocessor&&) noexcept;
  Preprocessor& operator=(Preprocessor&&) noexcept;

  const PreprocessRecipe& recipe() const noexcept;

  // Writes float32 (3, height, width) to `out`. Throws FrameError: invalid frame, or a region of
  // interest that does not lie inside it.
  void run(const Frame& frame, float* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agp_edge
