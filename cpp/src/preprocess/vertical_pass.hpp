// The vertical half of the resize: which frame rows, with which weights, make which line.
//
// Owns     the tables of one (rule, input, output).
// Threads  const after construction; each worker has its own scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "preprocess/resample_cpu.hpp"
#include "preprocess/resize_weights.hpp"

namespace agp_edge {

// Rows of the region of interest: row j at data + j * pitch, `columns` bytes each.
struct RowSource {
  const std::uint8_t* data = nullptr;
  std::size_t pitch = 0;
  int columns = 0;
};

class VerticalPass {
 public:
  // Of one worker. `carry`: source.columns floats; `rows` and `weights`: max_rows() entries.
  struct Scratch {
    float* carry;
    const std::uint8_t** rows;
    float* weights;
  };

  VerticalPass() = default;
  VerticalPass(ResizeRule rule, int input, int output);

  int max_rows() const noexcept { return max_rows_; }

  // Makes lines from output row y on: start(y), then line(y), line(y + 1), ... The result does not
  // depend on where it was started. `line` of start() is overwritten with nothing of use.
  void start(const ResampleKernels& kernels, const RowSource& source, int y, const Scratch& scratch,
             float* line) const;
  void line(const ResampleKernels& kernels, const RowSource& source, int y, const Scratch& scratch,
            float* line) const;

 private:
  // Rows [begin, begin + count) of the input lie between the centres of two outputs (triangle) or
  // wholly inside one (area).
  struct Band {
    int begin;
    int count;
    LinearWeights linear;
    ConstantWeights constant;  // `shared` is set where has_shared
    bool has_shared;
  };
  enum class Way { kTaps, kLinear, kConstant };

  void plan_linear(int input, int output);
  void plan_constant(int input, int output);
  void sweep(const ResampleKernels& kernels, const RowSource& source, const Band& band,
             const Scratch& scratch, float* line) const;

  Way way_ = Way::kTaps;
  int max_rows_ = 0;
  BandMatrix taps_;          // kTaps
  std::vector<Band> bands_;  // line y adds bands_[y + 1] to what bands_[y] carried
};

}  // namespace agp_edge
