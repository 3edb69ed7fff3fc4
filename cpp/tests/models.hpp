// Model files for the tests, made byte by byte: a manifest, and an ONNX graph that averages blocks.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace models {

using Json = nlohmann::ordered_json;  // the version has to stay first

constexpr int kInput = 32;
constexpr int kGrid = 4;
constexpr int kBlock = kInput / kGrid;

// Input (1, 3, 32, 32) "image", output (1, 1, 4, 4) "distance": fits average_onnx().
inline Json manifest() {
  return Json::parse(R"({"agp_edge_manifest": "1.0", "name": "small", "backbone": "none",
    "input": {"name": "image", "height": 32, "width": 32, "mean": [10.0, 20.0, 30.0],
              "std": [2.0, 4.0, 5.0], "dtype": "float32", "channels": "rgb",
              "resize": "antialias", "roi": null},
    "output": {"name": "distance", "height": 4, "width": 4, "dtype": "float32"},
    "postprocess": {"sigma": 0.0, "score": "max", "top_share": 0.01},
    "setup": "one-class", "classes": ["tile"],
    "threshold": {"value": 25.0, "method": "conformal", "false_reject": 0.05, "n": 40,
                  "unit": "images", "mask_value": null},
    "precision": {"asked": "fp32", "built": null}, "opset": 13, "versions": {"torch": "2"},
    "hashes": {"data": "sha256:00"}, "created": "2026-01-01T00:00:00Z",
    "self_test": {"seed": 1, "score": 0.5}})");
}

// Protobuf: https://protobuf.dev/programming-guides/encoding/
inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 0x7F; value >>= 7U) bytes += static_cast<char>((value & 0x7FU) | 0x80U);
  return bytes + static_cast<char>(value);
}

inline std::string number(unsigned field, std::uint64_t value) {
  return varint(field << 3U) + varint(value);
}

inline std::string length_field(unsigned field, std::uint64_t length) {
  return varint(field << 3U | 2U) + varint(length);
}

inline std::string bytes(unsigned field, const std::string& content) {
  return length_field(field, content.size()) + content;
}

inline std::string metadata(const std::string& key, const std::string& value) {
  return bytes(14, bytes(1, key) + bytes(2, value));
}

inline std::string ints(const std::string& name, std::initializer_list<std::uint64_t> values) {
  std::string attribute = bytes(1, name);
  for (const std::uint64_t value : values) attribute += number(8, value);
  return bytes(5, attribute + number(20, 7));
}

inline std::string tensor(unsigned field, const std::string& name,
                          std::initializer_list<std::uint64_t> shape) {
  std::string dims;
  for (const std::uint64_t side : shape) dims += bytes(1, number(1, side));
  constexpr std::uint64_t kFloat = 1;
  return bytes(field, bytes(1, name) + bytes(2, bytes(1, number(1, kFloat) + bytes(2, dims))));
}

// distance = mean over the channels of AveragePool 8x8, stride 8; opset 13.
inline std::string average_graph() {
  const std::string pool = bytes(1, "image") + bytes(2, "pooled") + bytes(4, "AveragePool") +
                           ints("kernel_shape", {kBlock, kBlock}) +
                           ints("strides", {kBlock, kBlock});
  const std::string mean =
      bytes(1, "pooled") + bytes(2, "distance") + bytes(4, "ReduceMean") + ints("axes", {1});
  return bytes(1, pool) + bytes(1, mean) + bytes(2, "average") +
         tensor(11, "image", {1, 3, kInput, kInput}) + tensor(12, "distance", {1, 1, kGrid, kGrid});
}

// A whole model up to its metadata: append metadata(), or nothing.
inline std::string average_onnx() {
  return number(1, 8) + bytes(2, "test") + bytes(7, average_graph()) + bytes(8, number(2, 13));
}

// A file that is gone at the end of the scope.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content, const std::string& suffix = ".onnx")
      : path_((std::filesystem::temp_directory_path() /
               ("agp_edge_" + std::to_string(getpid()) + "_" + std::to_string(next()) + suffix))
                  .string()) {
    write(content);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  void write(const std::string& content) const {
    // A new file each time: ext4 flushes one that was truncated and rewritten to the disk at once.
    std::filesystem::remove(path_);
    std::ofstream file(path_, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
  }
  const std::string& path() const { return path_; }

 private:
  static int next() {
    static int count = 0;
    return count++;
  }
  std::string path_;
};

}  // namespace models
