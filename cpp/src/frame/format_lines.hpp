// The vertical half of the resize for two-byte mono, bayer and nv12 frames: lines of floats, as
// VerticalPass makes them of 8-bit rows.
//
// Owns     the tables of one frame geometry.
// Threads  const after construction; each worker has its own scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "agp_edge/frame.hpp"
#include "frame/bayer_weights.hpp"
#include "preprocess/convert_cpu.hpp"
#include "preprocess/resample_cpu.hpp"
#include "preprocess/resize_weights.hpp"

namespace agp_edge {

class FormatLines {
 public:
  // Of one worker, made by make_scratch() once per geometry.
  struct Scratch {
    std::vector<const std::uint8_t*> rows8;
    std::vector<const std::uint16_t*> rows16;
    std::vector<float> weights;
    std::vector<float> sums;         // bayer: four lines; nv12: three planes
    std::vector<std::uint8_t> ring;  // nv12: converted rows, by row number modulo taps
    std::vector<int> ring_rows;      // which row each place holds, -1: none
  };

  FormatLines() = default;
  // `frame`: its geometry and format; `view`: inside of it.
  FormatLines(ResizeRule rule, const Frame& frame, const Rect& view, int output);

  Scratch make_scratch() const;

  // As VerticalPass: start(), then line(y), line(y + 1), ... Values as in the frame, channels as
  // channels() and red, green, blue.
  void start(Scratch& scratch) const;
  void line(const ResampleKernels& kernels, const Frame& frame, int y, Scratch& scratch,
            float* line) const;

 private:
  void bayer_line(const ResampleKernels& kernels, const Frame& frame, int y, Scratch& scratch,
                  float* line) const;
  void nv12_line(const ResampleKernels& kernels, const Frame& frame, int y, Scratch& scratch,
                 float* line) const;
  void mono_line(const ResampleKernels& kernels, const Frame& frame, int y, Scratch& scratch,
                 float* line) const;

  const ConvertKernels* convert_ = nullptr;
  PixelLayout layout_ = PixelLayout::kMono16;
  RedPixel red_{0, 0};
  Rect view_;
  int begin_ = 0;    // bayer: columns of the frame that are summed
  int columns_ = 0;  // the same
  BandMatrix taps_;
  BayerAxis bayer_;
};

}  // namespace agp_edge
