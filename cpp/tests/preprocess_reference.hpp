// Frames for tests of the preprocessing, and its definition in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "agp_edge/preprocess.hpp"

namespace reference {

using agp_edge::Frame;
using agp_edge::PixelFormat;
using agp_edge::PixelLayout;
using agp_edge::PreprocessRecipe;
using agp_edge::Rect;
using agp_edge::ResizeRule;

constexpr PixelFormat kAllFormats[] = {
    PixelFormat::kBgr8,        PixelFormat::kRgb8,        PixelFormat::kMono8,
    PixelFormat::kMono10,      PixelFormat::kMono12,      PixelFormat::kMono16,
    PixelFormat::kBayerRggb8,  PixelFormat::kBayerGrbg8,  PixelFormat::kBayerGbrg8,
    PixelFormat::kBayerBggr8,  PixelFormat::kBayerRggb12, PixelFormat::kBayerGrbg12,
    PixelFormat::kBayerGbrg12, PixelFormat::kBayerBggr12, PixelFormat::kNv12};

// Random pixels in a buffer that ends with the last row's last pixel, so that AddressSanitizer sees
// any read behind it.
struct Image {
  std::vector<std::uint8_t> bytes;
  Frame frame;

  Image(int height, int width, PixelFormat format, std::size_t extra_pitch, unsigned seed) {
    const std::size_t row = static_cast<std::size_t>(width) * agp_edge::bytes_per_pixel(format);
    frame = Frame{nullptr, height, width, row + extra_pitch, format};
    bytes.resize(frame.bytes());
    frame.data = bytes.data();
    std::mt19937 random(seed);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 24);
    if (agp_edge::bytes_per_pixel(format) == 1 || format == PixelFormat::kBgr8 ||
        format == PixelFormat::kRgb8) {
      return;
    }
    // The bits above the value's are 0, as cameras leave them.
    const int high = agp_edge::largest_value(format) >> 8;
    for (int y = 0; y < height; ++y) {
      for (std::size_t i = 1; i < row; i += 2) {
        std::uint8_t& byte = bytes[static_cast<std::size_t>(y) * frame.row_pitch + i];
        byte = static_cast<std::uint8_t>(byte & high);
      }
    }
  }
};

inline double raw_value(const Frame& frame, int y, int x) {
  const int bytes = agp_edge::bytes_per_pixel(frame.format);
  const std::uint8_t* at = frame.data + static_cast<std::size_t>(y) * frame.row_pitch +
                           static_cast<std::size_t>(x) * bytes;
  return bytes == 2 ? at[0] + 256.0 * at[1] : at[0];
}

// Bilinear demosaicing as frame.hpp defines it: mean of the nearest pixels that have the colour.
inline double demosaiced(const Frame& frame, int y, int x, int channel) {
  const agp_edge::RedPixel red = agp_edge::red_pixel(frame.format);
  const auto mirrored = [](int i, int side) {
    return i < 0 ? -i : i >= side ? 2 * (side - 1) - i : i;
  };
  const auto colour_at = [&](int row, int column) {
    const bool red_row = ((row - red.y) & 1) == 0;
    const bool red_column = ((column - red.x) & 1) == 0;
    return red_row && red_column ? 0 : red_row || red_column ? 1 : 2;
  };
  if (colour_at(y, x) == channel) return raw_value(frame, y, x);
  double sum = 0;
  int count = 0;
  for (int ring = 1; ring <= 2 && count == 0; ++ring) {  // neighbours on the sides, then diagonals
    for (int dy = -1; dy <= 1; ++dy) {
      for (int dx = -1; dx <= 1; ++dx) {
        if (std::abs(dy) + std::abs(dx) != ring || colour_at(y + dy, x + dx) != channel) continue;
        sum += raw_value(frame, mirrored(y + dy, frame.height), mirrored(x + dx, frame.width));
        ++count;
      }
    }
  }
  return sum / count;
}

// OpenCV's fixed-point factors of BT.601; test_frame_formats.py compares with OpenCV itself.
inline double nv12_value(const Frame& frame, int y, int x, int channel) {
  const std::uint8_t* uv = frame.data +
                           static_cast<std::size_t>(frame.height + y / 2) * frame.row_pitch +
                           static_cast<std::size_t>(x / 2 * 2);
  const double luma = 1220542.0 * std::max(0.0, raw_value(frame, y, x) - 16);
  const double u = uv[0] - 128.0;
  const double v = uv[1] - 128.0;
  const double chroma = channel == 0   ? 1673527 * v
                        : channel == 1 ? -852492 * v - 409993 * u
                                       : 2116026 * u;
  return std::clamp(std::floor((luma + chroma) / 1048576 + 0.5), 0.0, 255.0);
}

// One channel of one pixel, in 8-bit units; channels red, green, blue.
inline double pixel(const Frame& frame, int y, int x, int channel) {
  const double unit = 255.0 / agp_edge::largest_value(frame.format);
  switch (agp_edge::layout_of(frame.format)) {
    case PixelLayout::kColour8: {
      const int place = frame.format == PixelFormat::kRgb8 ? channel : 2 - channel;
      return frame.data[static_cast<std::size_t>(y) * frame.row_pitch +
                        static_cast<std::size_t>(3 * x + place)];
    }
    case PixelLayout::kBayer8:
    case PixelLayout::kBayer16:
      return unit * demosaiced(frame, y, x, channel);
    case PixelLayout::kNv12:
      return nv12_value(frame, y, x, channel);
    default:
      return unit * raw_value(frame, y, x);
  }
}

inline std::vector<double> weights_of(ResizeRule rule, int input, int output, int i) {
  const double scale = static_cast<double>(input) / output;
  std::vector<double> weights(static_cast<std::size_t>(input), 0.0);
  double sum = 0;
  for (int j = 0; j < input; ++j) {
    double weight = 0;
    if (rule == ResizeRule::kArea && scale > 1) {
      weight = std::max(0.0, std::min((i + 1) * scale, j + 1.0) - std::max(i * scale, j + 0.0));
    } else {
      weight = std::max(0.0, 1 - std::abs(j + 0.5 - (i + 0.5) * scale) / std::max(scale, 1.0));
    }
    weights[static_cast<std::size_t>(j)] = weight;
    sum += weight;
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

// What Preprocessor::run() has to write, by its definition.
inline std::vector<double> preprocessed(const Frame& frame, const PreprocessRecipe& recipe) {
  const Rect view = recipe.roi.empty() ? Rect{0, 0, frame.width, frame.height} : recipe.roi;
  const PixelLayout layout = agp_edge::layout_of(frame.format);
  const bool mono = layout == PixelLayout::kMono8 || layout == PixelLayout::kMono16;
  const std::size_t plane = static_cast<std::size_t>(recipe.height) * recipe.width;
  std::vector<std::vector<double>> across;
  for (int x = 0; x < recipe.width; ++x) {
    across.push_back(weights_of(recipe.resize, view.width, recipe.width, x));
  }
  std::vector<std::vector<double>> down;
  for (int y = 0; y < recipe.height; ++y) {
    down.push_back(weights_of(recipe.resize, view.height, recipe.height, y));
  }
  std::vector<double> out(3 * plane);
  for (int channel = 0; channel < (mono ? 1 : 3); ++channel) {
    std::vector<double> pixels;
    for (int j = 0; j < view.height; ++j) {
      for (int k = 0; k < view.width; ++k) {
        pixels.push_back(pixel(frame, view.y + j, view.x + k, channel));
      }
    }
    for (int y = 0; y < recipe.height; ++y) {
      std::vector<double> line(static_cast<std::size_t>(view.width), 0.0);
      for (int j = 0; j < view.height; ++j) {
        const double weight = down[static_cast<std::size_t>(y)][static_cast<std::size_t>(j)];
        if (weight == 0) continue;
        const double* row = pixels.data() + static_cast<std::size_t>(j) * line.size();
        for (std::size_t k = 0; k < line.size(); ++k) line[k] += weight * row[k];
      }
      for (int x = 0; x < recipe.width; ++x) {
        const std::vector<double>& weights = across[static_cast<std::size_t>(x)];
        double value = 0;
        for (std::size_t k = 0; k < line.size(); ++k) value += weights[k] * line[k];
        const std::size_t at = static_cast<std::size_t>(y) * recipe.width + x;
        for (int p = 0; p < 3; ++p) {
          const bool bgr = recipe.channels == agp_edge::ChannelOrder::kBgr;
          if (!mono && channel != (bgr ? 2 - p : p)) continue;
          out[static_cast<std::size_t>(p) * plane + at] =
              (value - recipe.mean[p]) / recipe.stddev[p];
        }
      }
    }
  }
  return out;
}

// ImageNet's mean and deviation.
inline PreprocessRecipe recipe_of(int height, int width, ResizeRule rule = ResizeRule::kAntialias) {
  PreprocessRecipe recipe;
  recipe.height = height;
  recipe.width = width;
  recipe.mean = {{123.675F, 116.28F, 103.53F}};
  recipe.stddev = {{58.395F, 57.12F, 57.375F}};
  recipe.resize = rule;
  return recipe;
}

// The CPU stage's answer; what it does not write stays NaN.
inline std::vector<float> run_on_cpu(const Frame& frame, const PreprocessRecipe& recipe,
                                     int threads = 1) {
  const std::size_t size = 3 * static_cast<std::size_t>(recipe.height) * recipe.width;
  std::vector<float> out(size, std::numeric_limits<float>::quiet_NaN());
  agp_edge::Preprocessor(recipe, threads).run(frame, out.data());
  return out;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN is kept
  }
  return largest;
}

// In units of the tensor, where the 8-bit range is about 4.4 wide.
constexpr double kTolerance = 5e-6;

}  // namespace reference
