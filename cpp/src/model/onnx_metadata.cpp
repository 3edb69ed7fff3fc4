#include "model/onnx_metadata.hpp"

#include <optional>
#include <stdexcept>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

// Field numbers of onnx.proto.
constexpr std::uint32_t kModelGraph = 7;
constexpr std::uint32_t kModelMetadata = 14;
constexpr std::uint32_t kEntryKey = 1;
constexpr std::uint32_t kEntryValue = 2;

struct Malformed {
  std::string problem;
};

// What ModelProto declares for a field number; nothing for one that it does not know.
std::optional<std::uint32_t> model_wire_type(std::uint32_t field) noexcept {
  switch (field) {
    case 1:  // ir_version
    case 5:  // model_version
      return kVarint;
    case 2:  // producer_name
    case 3:  // producer_version
    case 4:  // domain
    case 6:  // doc_string
    case kModelGraph:
    case 8:  // opset_import
    case kModelMetadata:
    case 20:  // training_info
    case 25:  // functions
    case 26:  // configuration
      return kLength;
    default:
      return std::nullopt;
  }
}

struct Field {
  std::uint32_t number;
  std::uint32_t wire_type;
  std::uint64_t begin;  // of the content
  std::uint64_t end;
};

// Reads fields between two offsets of a file; nothing past `end` is ever touched.
class FieldReader {
 public:
  FieldReader(std::istream& file, std::uint64_t begin, std::uint64_t end)
      : file_(file), position_(begin), end_(end) {
    file_.seekg(static_cast<std::streamoff>(begin));
  }

  bool done() const noexcept { return position_ == end_; }
  std::uint64_t position() const noexcept { return position_; }

  // The next field's key and extent; its content is left unread.
  Field next() {
    const std::uint64_t start = position_;
    const std::uint64_t tag = varint();
    Field field{};
    field.number = static_cast<std::uint32_t>(tag >> 3U);
    field.wire_type = static_cast<std::uint32_t>(tag & 7U);
    if ((tag >> 3U) == 0 || (tag >> 3U) > 0x1FFFFFFFU) fail("no field key", start);
    std::uint64_t length = 0;
    switch (field.wire_type) {
      case kVarint:
        field.begin = position_;
        varint();
        field.end = position_;
        return field;
      case kFixed64:
        length = 8;
        break;
      case kLength:
        length = varint();
        break;
      case kFixed32:
        length = 4;
        break;
      default:
        fail("an unknown wire type", start);
    }
    if (length > end_ - position_) fail("a field that runs past the end of the file", start);
    field.begin = position_;
    field.end = position_ + length;
    return field;
  }

  void skip(const Field& field) {
    if (position_ != field.end) {
      position_ = field.end;
      file_.seekg(static_cast<std::streamoff>(position_));
    }
  }

  std::string content(const Field& field) {
    std::string text(static_cast<std::size_t>(field.end - field.begin), '\0');
    file_.seekg(static_cast<std::streamoff>(field.begin));
    file_.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file_.gcount() != static_cast<std::streamsize>(text.size())) {
      fail("the end of the file", field.begin);
    }
    position_ = field.end;
    return text;
  }

 private:
  [[noreturn]] static void fail(const std::string& what, std::uint64_t at) {
    throw Malformed{what + " at byte " + std::to_string(at)};
  }

  std::uint64_t varint() {
    const std::uint64_t start = position_;
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (position_ >= end_) fail("the end of the file inside a number", start);
      const int byte = file_.get();
      if (byte < 0) fail("the end of the file inside a number", start);
      ++position_;
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail("a number of more than 10 bytes", start);
  }

  std::istream& file_;
  std::uint64_t position_;
  std::uint64_t end_;
};

// Value of one metadata entry if its key is `key`.
std::optional<std::string> entry_value(std::istream& file, const Field& entry,
                                       const std::string& key, std::uint64_t value_limit,
                                       const std::string& path) {
  FieldReader reader(file, entry.begin, entry.end);
  bool matches = false;
  std::optional<Field> value;
  while (!reader.done()) {
    const Field field = reader.next();
    if (field.number == kEntryKey && field.wire_type == kLength) {
      // A longer or shorter key is another one: no need to read it.
      matches = field.end - field.begin == key.size() && reader.content(field) == key;
    } else if (field.number == kEntryValue && field.wire_type == kLength) {
      value = field;
    }
    reader.skip(field);
  }
  if (!matches) return std::nullopt;
  if (!value) return std::string();
  const std::uint64_t length = value->end - value->begin;
  if (length > value_limit) {
    throw ModelError("the manifest of '" + path + "' has " + std::to_string(length) +
                     " bytes, at most " + std::to_string(value_limit) +
                     " are expected: export the model again");
  }
  return reader.content(*value);
}

}  // namespace

bool may_start_onnx(unsigned char first) noexcept {
  const auto wire_type = model_wire_type(first >> 3U);
  return (first & 0x80U) == 0 && wire_type && *wire_type == (first & 7U);
}

OnnxMetadata read_onnx_metadata(std::istream& file, std::uint64_t size, const std::string& key,
                                std::uint64_t value_limit, const std::string& path) {
  std::optional<std::string> found;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool has_graph = false;
  try {
    FieldReader reader(file, 0, size);
    while (!reader.done()) {
      const std::uint64_t start = reader.position();
      const Field field = reader.next();
      const auto declared = model_wire_type(field.number);
      if (declared && *declared != field.wire_type) {
        throw Malformed{"field " + std::to_string(field.number) + " of a wrong type at byte " +
                        std::to_string(start)};
      }
      has_graph = has_graph || field.number == kModelGraph;
      if (field.number == kModelMetadata) {
        auto value = entry_value(file, field, key, value_limit, path);
        if (value && found) {
          throw ModelError("'" + path + "' holds two manifests (metadata_props '" + key +
                           "'), one is expected: export the model again");
        }
        if (value) {
          found = std::move(value);
          begin = start;
          end = field.end;
        }
        file.clear();
        file.seekg(static_cast<std::streamoff>(field.end));
      }
      reader.skip(field);
    }
  } catch (const Malformed& malformed) {
    return {OnnxWalk::kMalformed, "", malformed.problem};
  }
  if (!has_graph) return {OnnxWalk::kNoGraph, "", ""};
  if (!found) return {OnnxWalk::kNoKey, "", ""};
  return {OnnxWalk::kFound, std::move(*found), "", begin, end};
}

}  // namespace agp_edge
