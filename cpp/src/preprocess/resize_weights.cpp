#include "preprocess/resize_weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace agp_edge {
namespace {

// One row of the matrix before padding.
struct Row {
  int first = 0;
  std::vector<double> weights;
};

BandMatrix pack(int input, const std::vector<Row>& rows) {
  BandMatrix matrix;
  matrix.input = input;
  matrix.output = static_cast<int>(rows.size());
  for (const Row& row : rows) {
    matrix.taps = std::max(matrix.taps, static_cast<int>(row.weights.size()));
  }
  matrix.weights.assign(rows.size() * static_cast<std::size_t>(matrix.taps), 0.0F);
  matrix.first.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int first = std::min(rows[i].first, input - matrix.taps);
    const std::size_t shift = static_cast<std::size_t>(rows[i].first - first);
    double sum = 0;
    for (double weight : rows[i].weights) sum += weight;
    for (std::size_t t = 0; t < rows[i].weights.size(); ++t) {
      matrix.weights[i * static_cast<std::size_t>(matrix.taps) + shift + t] =
          static_cast<float>(rows[i].weights[t] / sum);
    }
    matrix.first.push_back(first);
  }
  return matrix;
}

void trim(Row& row) {
  while (row.weights.size() > 1 && row.weights.back() == 0) row.weights.pop_back();
  std::size_t zeros = 0;
  while (zeros + 1 < row.weights.size() && row.weights[zeros] == 0) ++zeros;
  row.weights.erase(row.weights.begin(), row.weights.begin() + static_cast<std::ptrdiff_t>(zeros));
  row.first += static_cast<int>(zeros);
}

std::vector<Row> triangle_rows(int input, int output) {
  const double scale = static_cast<double>(input) / output;
  const double support = std::max(scale, 1.0);
  std::vector<Row> rows(static_cast<std::size_t>(output));
  for (int i = 0; i < output; ++i) {
    const double centre = (i + 0.5) * scale;
    const int begin = std::max(0, static_cast<int>(std::floor(centre - support + 0.5)));
    const int end = std::min(input, static_cast<int>(std::floor(centre + support + 0.5)));
    Row& row = rows[static_cast<std::size_t>(i)];
    row.first = begin;
    for (int j = begin; j < end; ++j) {
      row.weights.push_back(std::max(0.0, 1.0 - std::abs((j + 0.5 - centre) / support)));
    }
    trim(row);
  }
  return rows;
}

std::vector<Row> area_rows(int input, int output) {
  const double scale = static_cast<double>(input) / output;
  std::vector<Row> rows(static_cast<std::size_t>(output));
  for (int i = 0; i < output; ++i) {
    // In units of 1 / output input samples everything is an integer: no sliver from rounding.
    const long long begin = static_cast<long long>(i) * input;
    const long long end = begin + input;
    Row& row = rows[static_cast<std::size_t>(i)];
    row.first = static_cast<int>(begin / output);
    for (long long j = begin / output; j * output < end; ++j) {
      const long long covered = std::min(end, (j + 1) * output) - std::max(begin, j * output);
      row.weights.push_back(static_cast<double>(covered) / output / scale);
    }
  }
  return rows;
}

int reflect_101(int index, int size) {
  if (size == 1) return 0;
  const int period = 2 * (size - 1);
  index = std::abs(index) % period;
  return index < size ? index : period - index;
}

}  // namespace

BandMatrix triangle_weights(int input, int output) {
  return pack(input, triangle_rows(input, output));
}

BandMatrix area_weights(int input, int output) {
  return pack(input, input > output ? area_rows(input, output) : triangle_rows(input, output));
}

BandMatrix resize_weights(ResizeRule rule, int input, int output) {
  return rule == ResizeRule::kArea ? area_weights(input, output) : triangle_weights(input, output);
}

BandMatrix upsample_blur_weights(int grid, int map, float sigma) {
  // cv2.resize(INTER_LINEAR) never widens its filter, also where the map is smaller than the grid.
  std::vector<Row> upsample(static_cast<std::size_t>(map));
  const double scale = static_cast<double>(grid) / map;
  for (int i = 0; i < map; ++i) {
    const double centre = (i + 0.5) * scale - 0.5;
    const double position = std::clamp(centre, 0.0, static_cast<double>(grid - 1));
    Row& row = upsample[static_cast<std::size_t>(i)];
    row.first = std::min(static_cast<int>(position), std::max(grid - 2, 0));
    const double fraction = position - row.first;
    row.weights = grid > 1 ? std::vector<double>{1 - fraction, fraction} : std::vector<double>{1};
  }
  if (sigma <= 0) return pack(grid, upsample);

  const int radius = static_cast<int>(std::ceil(4.0 * static_cast<double>(sigma)));
  std::vector<Row> blurred(static_cast<std::size_t>(map));
  std::vector<double> dense(static_cast<std::size_t>(grid));
  for (int i = 0; i < map; ++i) {
    std::fill(dense.begin(), dense.end(), 0.0);
    for (int k = -radius; k <= radius; ++k) {
      const double gauss = std::exp(-0.5 * k * k / (static_cast<double>(sigma) * sigma));
      const Row& source = upsample[static_cast<std::size_t>(reflect_101(i + k, map))];
      for (std::size_t t = 0; t < source.weights.size(); ++t) {
        dense[static_cast<std::size_t>(source.first) + t] += gauss * source.weights[t];
      }
    }
    Row& row = blurred[static_cast<std::size_t>(i)];
    row.weights = dense;
    trim(row);
  }
  return pack(grid, blurred);
}

}  // namespace agp_edge
