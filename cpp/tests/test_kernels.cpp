// The hot loops of each instruction set against each other, the vertical pass against its matrix,
// and the integer sums where they come closest to overflow.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"
#include "postprocess/smooth_cpu.hpp"
#include "preprocess/resample_cpu.hpp"
#include "preprocess/resize_weights.hpp"
#include "preprocess/vertical_pass.hpp"

namespace {

using agp_edge::BandMatrix;
using agp_edge::ResampleKernels;
using agp_edge::ResizeRule;
using agp_edge::SmoothKernels;
using agp_edge::VerticalPass;

// All of them on this CPU; both entries are the same where it has nothing beyond the baseline.
const ResampleKernels* const kResampleKernels[] = {&agp_edge::kBaselineResampleKernels,
                                                   &agp_edge::resample_kernels()};
const SmoothKernels* const kSmoothKernels[] = {&agp_edge::kBaselineSmoothKernels,
                                               &agp_edge::smooth_kernels()};

std::vector<std::uint8_t> random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> bytes(size);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 24);
  return bytes;
}

std::vector<float> random_floats(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(random);
  return values;
}

// Largest difference of the pass, started at `from`, to the matrix applied in double precision.
double vertical_error(const ResampleKernels& kernels, ResizeRule rule, int input, int output,
                      int columns, const std::vector<std::uint8_t>& bytes, int from) {
  const VerticalPass pass(rule, input, output);
  const agp_edge::RowSource source{bytes.data(), static_cast<std::size_t>(columns), columns};
  std::vector<float> carry(static_cast<std::size_t>(columns));
  std::vector<float> line(static_cast<std::size_t>(columns));
  std::vector<const std::uint8_t*> rows(static_cast<std::size_t>(pass.max_rows()));
  std::vector<float> weights(static_cast<std::size_t>(pass.max_rows()));
  const VerticalPass::Scratch scratch{carry.data(), rows.data(), weights.data()};
  const BandMatrix matrix = agp_edge::resize_weights(rule, input, output);
  double largest = 0;
  pass.start(kernels, source, from, scratch, line.data());
  for (int y = from; y < output; ++y) {
    pass.line(kernels, source, y, scratch, line.data());
    for (int x = 0; x < columns; ++x) {
      double expected = 0;
      for (int t = 0; t < matrix.taps; ++t) {
        const int row = matrix.first[static_cast<std::size_t>(y)] + t;
        expected += static_cast<double>(matrix.weight(y, t)) *
                    bytes[static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
                          static_cast<std::size_t>(x)];
      }
      const double value = static_cast<double>(line[static_cast<std::size_t>(x)]);
      const double difference = std::abs(value - expected);
      if (!(difference <= largest)) largest = difference;
    }
  }
  return largest;
}

constexpr ResizeRule kRules[] = {ResizeRule::kAntialias, ResizeRule::kArea};

// Of 255; a float holds it to 1.5e-5.
constexpr double kGreyTolerance = 2e-4;

}  // namespace

TEST(vertical_pass_equals_its_matrix) {
  for (const ResampleKernels* kernels : kResampleKernels) {
    for (ResizeRule rule : kRules) {
      for (const auto& [input, output] :
           {std::pair{1, 1}, std::pair{5, 5}, std::pair{3, 8}, std::pair{7, 6}, std::pair{9, 2},
            std::pair{64, 16}, std::pair{100, 31}, std::pair{67, 3}, std::pair{200, 9},
            std::pair{230, 10}, std::pair{255, 1}, std::pair{520, 2}, std::pair{900, 3}}) {
        for (int columns : {1, 37, 1300}) {
          const std::vector<std::uint8_t> bytes =
              random_bytes(static_cast<std::size_t>(input) * static_cast<std::size_t>(columns), 1);
          for (int from : {0, output / 2, output - 1}) {
            CHECK_NEAR(vertical_error(*kernels, rule, input, output, columns, bytes, from), 0,
                       kGreyTolerance);
          }
        }
      }
    }
  }
}

TEST(white_rows_do_not_overflow_the_sums) {
  for (const ResampleKernels* kernels : kResampleKernels) {
    for (ResizeRule rule : kRules) {
      const int limit =
          rule == ResizeRule::kArea ? agp_edge::kMaxConstantRows : agp_edge::kMaxLinearRows;
      for (int rows = limit - 1; rows <= limit + 1; ++rows) {
        const int input = 3 * rows;
        const std::vector<std::uint8_t> white(static_cast<std::size_t>(input) * 40, 255);
        CHECK_NEAR(vertical_error(*kernels, rule, input, 3, 40, white, 0), 0, kGreyTolerance);
      }
    }
  }
}

TEST(horizontal_kernels_agree) {
  const agp_edge::Normalisation normal{{0.5F, 2.0F, -1.0F}, {1.0F, 0.0F, 3.0F}};
  for (const auto& [input, output] : {std::pair{1, 1}, std::pair{7, 3}, std::pair{5, 16},
                                      std::pair{300, 37}, std::pair{640, 256}}) {
    const BandMatrix matrix = agp_edge::triangle_weights(input, output);
    for (int channels : {1, 3}) {
      const agp_edge::HorizontalTable table(matrix, channels);
      const std::size_t stride =
          static_cast<std::size_t>(input * channels) + agp_edge::kLinePadding;
      const std::vector<float> lines = random_floats(agp_edge::kLinesAtOnce * stride, 2);
      const std::size_t pitch = static_cast<std::size_t>(output) + 3;
      for (int count = 1; count <= agp_edge::kLinesAtOnce; ++count) {
        std::vector<float> planes[2];
        for (int set = 0; set < 2; ++set) {
          planes[set].assign(3 * agp_edge::kLinesAtOnce * pitch, -7.0F);
          agp_edge::PlaneRows out{{}, pitch};
          for (std::size_t c = 0; c < 3; ++c) {
            out.planes[c] = planes[set].data() + c * agp_edge::kLinesAtOnce * pitch;
          }
          const ResampleKernels& kernels = *kResampleKernels[set];
          (channels == 3 ? kernels.resample_colour : kernels.resample_mono)(
              lines.data(), stride, count, table, normal, out);
        }
        for (std::size_t i = 0; i < planes[0].size(); ++i) {
          const std::size_t row = i / pitch % agp_edge::kLinesAtOnce;
          const std::size_t x = i % pitch;
          CHECK_NEAR(planes[0][i], planes[1][i], 1e-5);
          if (row >= static_cast<std::size_t>(count) || x >= static_cast<std::size_t>(output)) {
            CHECK(planes[0][i] == -7.0F);  // nothing is written outside
            CHECK(planes[1][i] == -7.0F);
            continue;
          }
          double expected = 0;
          const std::size_t c = i / pitch / agp_edge::kLinesAtOnce;
          for (int t = 0; t < matrix.taps; ++t) {
            const std::size_t pixel = static_cast<std::size_t>(matrix.first[x] + t);
            const std::size_t place = channels == 3 ? 3 * pixel + c : pixel;
            expected += static_cast<double>(matrix.weight(static_cast<int>(x), t)) *
                        static_cast<double>(lines[row * stride + place]);
          }
          CHECK_NEAR(planes[1][i], expected * normal.scale[c] + normal.offset[c], 1e-5);
        }
      }
    }
  }
}

TEST(smoothing_kernels_agree) {
  for (int width : {1, 31, 32, 33, 200}) {
    const std::size_t pitch = static_cast<std::size_t>(width + 31) / 32 * 32;
    const std::vector<float> rows = random_floats(7 * pitch, 3);
    const std::vector<float> weights = random_floats(7, 4);
    for (int taps = 1; taps <= 7; ++taps) {
      std::vector<float> out[2];
      float largest[2];
      for (int set = 0; set < 2; ++set) {
        out[set].assign(static_cast<std::size_t>(width) + 1, -7.0F);
        largest[set] = kSmoothKernels[set]->blend(rows.data(), pitch, weights.data(), taps, width,
                                                  out[set].data());
        CHECK(largest[set] == *std::max_element(out[set].begin(), out[set].end() - 1));
        CHECK(out[set].back() == -7.0F);
      }
      for (std::size_t x = 0; x < out[0].size(); ++x) CHECK_NEAR(out[0][x], out[1][x], 1e-5);

      std::vector<std::uint8_t> mask[2];
      for (int set = 0; set < 2; ++set) {
        mask[set].assign(out[0].size() + 1, 9);
        kSmoothKernels[set]->exceeds(out[0].data(), 0.1F, out[0].size(), mask[set].data());
        CHECK(mask[set].back() == 9);
      }
      CHECK(mask[0] == mask[1]);
      for (std::size_t x = 0; x < out[0].size(); ++x) CHECK(mask[0][x] == (out[0][x] > 0.1F));
    }
  }
}

TEST(sums_of_powers_agree) {
  for (std::size_t size : {1U, 31U, 32U, 33U, 1000U, 5000U}) {
    std::vector<float> values = random_floats(size, 5);
    values[0] = 1;
    for (int power : {1, 2, 7, 24, 64}) {
      double expected = 0;
      for (float value : values) expected += value > 0.01F ? std::pow(value, power) : 0;
      for (const SmoothKernels* kernels : kSmoothKernels) {
        CHECK_NEAR(kernels->power_sum(values.data(), size, 1.0F, 0.01F, power), expected,
                   1e-5 * expected);
      }
    }
  }
}

int main(int argc, char** argv) {
  std::printf("instruction sets: baseline%s\n",
              kResampleKernels[0] == kResampleKernels[1] ? " only" : ", AVX2");
  return check::run(argc, argv);
}
