#include "model/model_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "agp_edge/error.hpp"
#include "agp_edge/manifest.hpp"
#include "model/external_data.hpp"
#include "model/onnx_metadata.hpp"
#include "model/view_stream.hpp"

namespace agp_edge {
namespace {

namespace fs = std::filesystem;

// Every manifest starts with this (docs/manifest.md).
constexpr std::string_view kMarker = "{\"agp_edge_manifest\":";
// A plan keeps 4,095 bytes at most; an ONNX file has no limit of its own.
constexpr std::size_t kPlanLimit = 4095;
constexpr std::uint64_t kOnnxLimit = 1U << 20U;
constexpr std::size_t kChunk = 1U << 20U;

// Length of the JSON object that starts `text`, by its balanced braces; 0: it has no end.
std::size_t json_object_length(std::string_view text) noexcept {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') return 0;
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i + 1;
    }
  }
  return 0;
}

// Every different manifest text in the file's bytes, at most two: the second one ends the search.
struct PlanSearch {
  std::vector<std::string> documents;
  bool cut_off = false;  // a marker without an end within the limit
};

PlanSearch search_plan(std::istream& file, std::uint64_t size) {
  PlanSearch search;
  std::string window;
  // A byte more than the file, so that the first short read is the end.
  std::vector<char> chunk(static_cast<std::size_t>(std::min<std::uint64_t>(size + 1, kChunk)));
  file.clear();
  file.seekg(0);
  bool at_end = false;
  while (!at_end && search.documents.size() < 2) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    const auto count = static_cast<std::size_t>(file.gcount());
    at_end = count < chunk.size();
    window.append(chunk.data(), count);
    // A match is taken only where its longest possible text is in the window.
    const std::size_t ready = at_end                       ? window.size()
                              : window.size() > kPlanLimit ? window.size() - kPlanLimit
                                                           : 0;
    std::size_t from = 0;
    for (std::size_t at = window.find(kMarker); at < ready && search.documents.size() < 2;
         at = window.find(kMarker, from)) {
      const std::string_view text = std::string_view(window).substr(at, kPlanLimit);
      const std::size_t length = json_object_length(text);
      if (length == 0) {
        search.cut_off = true;
      } else {
        std::string document(text.substr(0, length));
        auto& seen = search.documents;
        if (std::find(seen.begin(), seen.end(), document) == seen.end()) {
          seen.push_back(std::move(document));
        }
      }
      from = at + std::max(length, kMarker.size());
    }
    const std::size_t keep_from = std::max(from, ready);
    window.erase(0, std::min(keep_from, window.size()));
  }
  return search;
}

std::ifstream open_model(const std::string& path, std::uint64_t& size) {
  if (path.find('\0') != std::string::npos) {
    // The system would open what stands before it.
    throw ModelError("the path of the model has a zero byte in it: check the path");
  }
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw ModelError("the model '" + path + "' does not exist: check the path");
  }
  if (fs::is_directory(status)) {
    throw ModelError("the model '" + path +
                     "' is a folder, an .onnx file or a plan is expected: give the file inside");
  }
  if (!fs::is_regular_file(status)) {
    throw ModelError("the model '" + path +
                     "' is not a regular file, give an .onnx file or a plan");
  }
  size = fs::file_size(path, error);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    const int code = error ? error.value() : errno;
    throw ModelError("the model '" + path + "' cannot be read (" + std::strerror(code) +
                     "): check its permissions");
  }
  if (size == 0) {
    throw ModelError("the model '" + path +
                     "' is empty, an .onnx file or a plan is expected: copy or export it again");
  }
  return file;
}

ModelFile read_model(std::istream& file, std::uint64_t size, const std::string& path) {
  const int first = file.peek();
  if (first < 0) throw ModelError("the model '" + path + "' cannot be read: check its disk");

  std::string onnx_problem;
  if (may_start_onnx(static_cast<unsigned char>(first))) {
    OnnxMetadata metadata = read_onnx_metadata(file, size, kManifestKey, kOnnxLimit, path);
    switch (metadata.walk) {
      case OnnxWalk::kFound:
        return {ModelKind::kOnnx, std::move(metadata.value), metadata.begin, metadata.end};
      case OnnxWalk::kNoKey:
        throw ModelError("'" + path + "' is an ONNX file without an agp_edge manifest (key '" +
                         kManifestKey +
                         "'): give one that `agp-edge export` wrote, unchanged by other tools");
      case OnnxWalk::kNoGraph:
        onnx_problem = "it has no graph";
        break;
      case OnnxWalk::kMalformed:
        onnx_problem = metadata.problem;
        break;
    }
  }

  // ir_version first is how every exporter starts; no plan does.
  constexpr int kOnnxFirstByte = 0x08;
  if (first == kOnnxFirstByte) {
    throw ModelError("'" + path + "' starts like an ONNX file but is truncated or corrupt (" +
                     onnx_problem + "): copy or export it again");
  }
  PlanSearch search = search_plan(file, size);
  if (search.documents.size() > 1) {
    throw ModelError("'" + path +
                     "' holds two different agp_edge manifests, one is expected: build it again");
  }
  if (search.documents.size() == 1) return {ModelKind::kPlan, std::move(search.documents[0])};
  if (search.cut_off) {
    throw ModelError("the manifest in '" + path +
                     "' has no end, the file is truncated or corrupt: copy or build it again");
  }
  throw ModelError("'" + path +
                   "' is no model of agp_edge (neither an ONNX file nor a plan with its manifest): "
                   "give one that `agp-edge export` or `agp-edge build` wrote");
}

}  // namespace

void check_model_file(const std::string& path) {
  std::uint64_t size = 0;
  open_model(path, size);
}

ModelFile read_model_file(const std::string& path) {
  std::uint64_t size = 0;
  std::ifstream file = open_model(path, size);
  return read_model(file, size, path);
}

ModelFile read_model_bytes(std::string_view bytes, const std::string& path) {
  if (bytes.empty()) {
    throw ModelError("the model '" + path +
                     "' is empty, an .onnx file or a plan is expected: copy or export it again");
  }
  ViewStream stream(bytes);
  return read_model(stream, bytes.size(), path);
}

void refuse_external_data(const std::string& path) {
  std::uint64_t size = 0;
  std::ifstream file = open_model(path, size);
  refuse_external_data(file, path);
}

void refuse_external_data(std::string_view bytes, const std::string& path) {
  ViewStream stream(bytes);
  refuse_external_data(stream, path);
}

std::string read_manifest_json(std::string_view bytes, const std::string& path) {
  return read_model_bytes(bytes, path).manifest_json;
}

std::string read_manifest_json(const std::string& path) {
  return read_model_file(path).manifest_json;
}

std::pair<std::uint64_t, std::uint64_t> manifest_extent(const std::string& path) {
  const ModelFile file = read_model_file(path);
  return {file.begin, file.end};
}

}  // namespace agp_edge
