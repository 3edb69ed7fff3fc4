#include "model/external_data.hpp"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

// How a tensor names the file with its values (onnx.proto): a StringStringEntryProto whose key is
// "location", in the field external_data = 13 of TensorProto.
constexpr std::string_view kKey = "\x0A\x08location\x12";
constexpr unsigned char kField = 13U << 3U | 2U;
constexpr std::size_t kLongestLength = 5;  // bytes of a varint that counts a protobuf's bytes
constexpr std::size_t kLongestName = 4096;
constexpr std::size_t kChunk = 1U << 20U;

// Whether tag and length of that field end `before`: metadata may have such a key too.
bool ends_with_field(std::string_view before) {
  const auto at = [before](std::size_t from_end) {
    return static_cast<unsigned char>(before[before.size() - from_end]);
  };
  std::size_t length = 1;
  while (length + 1 < before.size() && at(length + 1) >= 0x80U) ++length;
  return before.size() > length && at(length + 1) == kField;
}

// The string that starts `after`, its length first.
std::string_view counted_string(std::string_view after) {
  std::size_t length = 0;
  std::size_t begin = 0;
  for (unsigned shift = 0; begin < std::min(after.size(), kLongestLength); shift += 7) {
    const auto byte = static_cast<unsigned char>(after[begin++]);
    length |= std::size_t{byte & 0x7FU} << shift;
    if (byte < 0x80U) break;
  }
  return after.substr(begin, std::min(length, kLongestName));
}

}  // namespace

void refuse_external_data(std::istream& file, const std::string& path) {
  constexpr std::size_t kBefore = 1 + kLongestLength;
  constexpr std::size_t kAfter = kKey.size() + kLongestLength + kLongestName;
  std::string window;
  std::vector<char> chunk(kChunk);
  std::size_t from = 0;  // of the window, where the search goes on
  bool at_end = false;
  while (!at_end) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    const auto count = static_cast<std::size_t>(file.gcount());
    at_end = count < chunk.size();
    window.append(chunk.data(), count);
    // A match is looked at only where all that may belong to it is in the window.
    const std::size_t ready = at_end                   ? window.size()
                              : window.size() > kAfter ? window.size() - kAfter
                                                       : 0;
    for (std::size_t at = window.find(kKey, from); at < ready; at = window.find(kKey, at + 1)) {
      const std::size_t before = std::min(at, kBefore);
      if (!ends_with_field(std::string_view(window).substr(at - before, before))) continue;
      const std::string name(counted_string(std::string_view(window).substr(at + kKey.size())));
      throw ModelError("'" + path + "' keeps weights in another file, '" + name +
                       "', which no hash of the model covers: one file with everything in it is "
                       "expected; make it with `onnx.save_model(onnx.load('" +
                       path + "'), 'single.onnx')`");
    }
    const std::size_t keep_from = ready > kBefore ? ready - kBefore : 0;
    from = std::max(from, ready) - keep_from;
    window.erase(0, keep_from);
  }
}

}  // namespace agp_edge
