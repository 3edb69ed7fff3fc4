#include "agp_edge/manifest.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "agp_edge/error.hpp"
#include "postprocess/postprocess_recipe.hpp"

namespace agp_edge {
namespace {

using Json = nlohmann::json;

// No network or camera is larger, and products of two such sides fit any integer used here.
constexpr int kMaxSide = 16384;
constexpr int kMaxFrameSide = 1 << 20;
constexpr int kMaxInt = std::numeric_limits<int>::max();
// A Gaussian wider than the widest map blurs it to one value.
constexpr double kMaxSigma = kMaxSide;

// Whoever walks a document recursively, as messages and Python do, must not run out of stack.
constexpr int kMaxDepth = 64;

// Values as a message shows them: short, whatever the document holds.
std::string shortened(const std::string& text, std::size_t longest) {
  return text.size() > longest ? text.substr(0, longest) + "..." : text;
}

std::string shown(const Json& value) {
  return shortened(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60);
}

// One JSON object of the document and its place in it, for messages.
class Section {
 public:
  Section(const Json& object, std::string source, std::string prefix)
      : object_(object), source_(std::move(source)), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& given,
                           const std::string& expected) const {
    throw ModelError("the manifest of '" + source_ + "' has " + prefix_ + key + " " + given + ", " +
                     expected + " is expected: export the model again");
  }

  bool has(const char* key) const { return object_.contains(key); }

  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) {
      throw ModelError("the manifest of '" + source_ + "' lacks the key '" + prefix_ + key +
                       "': export the model again");
    }
    return *found;
  }

  std::string text(const char* key) const {
    const Json& value = at(key);
    if (!value.is_string()) refuse(key, shown(value), "a string");
    return value.get<std::string>();
  }

  std::string name(const char* key) const {
    std::string value = text(key);
    if (value.empty()) refuse(key, "\"\"", "a non-empty string");
    return value;
  }

  std::string one_of(const char* key, std::initializer_list<const char*> known) const {
    const std::string value = text(key);
    std::string names;
    for (const char* candidate : known) {
      if (value == candidate) return value;
      names += std::string(names.empty() ? "" : " or ") + '"' + candidate + '"';
    }
    refuse(key, shown(at(key)), names);
  }

  int integer(const char* key, int lowest, int highest) const {
    return integer_of(at(key), key, lowest, highest);
  }

  double number(const char* key, double lowest, double highest, bool lowest_included = true) const {
    return number_of(at(key), key, lowest, highest, lowest_included);
  }

  float real(const char* key) const {
    constexpr double kLargest = std::numeric_limits<float>::max();
    return static_cast<float>(number(key, -kLargest, kLargest));
  }

  std::array<float, 3> triple(const char* key, double lowest, bool lowest_included) const {
    const Json& value = at(key);
    if (!value.is_array() || value.size() != 3) refuse(key, shown(value), "a list of 3 numbers");
    std::array<float, 3> triple{};
    for (std::size_t i = 0; i < 3; ++i) {
      constexpr double kLargest = 1e6;
      triple[i] =
          static_cast<float>(number_of(value[i], std::string(key) + "[" + std::to_string(i) + "]",
                                       lowest, kLargest, lowest_included));
    }
    return triple;
  }

  std::vector<float> reals(const char* key, std::size_t most) const {
    const Json& value = at(key);
    if (!value.is_array() || value.empty() || value.size() > most) {
      refuse(key, shown(value), "a list of 1 to " + std::to_string(most) + " numbers");
    }
    constexpr double kLargest = std::numeric_limits<float>::max();
    std::vector<float> numbers;
    for (const Json& item : value) {
      numbers.push_back(static_cast<float>(number_of(item, key, -kLargest, kLargest, true)));
    }
    return numbers;
  }

  Rect rect(const char* key) const {
    const Json& value = at(key);
    if (value.is_null()) return {};
    if (!value.is_array() || value.size() != 4) {
      refuse(key, shown(value), "null or a list of 4 integers (x, y, width, height)");
    }
    return {integer_of(value[0], std::string(key) + "[0]", 0, kMaxFrameSide),
            integer_of(value[1], std::string(key) + "[1]", 0, kMaxFrameSide),
            integer_of(value[2], std::string(key) + "[2]", 1, kMaxFrameSide),
            integer_of(value[3], std::string(key) + "[3]", 1, kMaxFrameSide)};
  }

  Section section(const char* key) const {
    const Json& value = at(key);
    if (!value.is_object()) refuse(key, shown(value), "an object");
    return {value, source_, prefix_ + key + "."};
  }

  // Keys and values that are both strings.
  void check_table(const char* key) const {
    const Section table = section(key);
    for (const auto& item : table.object_.items()) {
      if (!item.value().is_string()) table.refuse(item.key(), shown(item.value()), "a string");
    }
  }

  void check_strings(const char* key) const {
    const Json& value = at(key);
    if (!value.is_array()) refuse(key, shown(value), "a list of strings");
    for (const Json& item : value) {
      if (!item.is_string()) refuse(key, shown(value), "a list of strings");
    }
  }

 private:
  int integer_of(const Json& value, const std::string& key, int lowest, int highest) const {
    const std::string expected =
        "an integer from " + std::to_string(lowest) + " to " + std::to_string(highest);
    if (!value.is_number_integer()) refuse(key, shown(value), expected);
    // An unsigned value over the signed range would wrap.
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(highest)) {
      refuse(key, shown(value), expected);
    }
    const auto number = value.get<std::int64_t>();
    if (number < lowest || number > highest) refuse(key, shown(value), expected);
    return static_cast<int>(number);
  }

  double number_of(const Json& value, const std::string& key, double lowest, double highest,
                   bool lowest_included) const {
    const std::string expected = "a number " + std::string(lowest_included ? "from " : "above ") +
                                 Json(lowest).dump() + " to " + Json(highest).dump();
    if (!value.is_number()) refuse(key, shown(value), expected);
    const auto number = value.get<double>();
    const bool low = lowest_included ? number < lowest : number <= lowest;
    if (!std::isfinite(number) || low || number > highest) refuse(key, shown(value), expected);
    return number;
  }

  const Json& object_;
  std::string source_;
  std::string prefix_;
};

// "1.0" -> 1, 0. The major number alone decides whether the rest is looked at.
void parse_version(const Section& document, Manifest& manifest) {
  const std::string version = document.text("agp_edge_manifest");
  const char* const end = version.data() + version.size();
  const auto [dot, major_error] = std::from_chars(version.data(), end, manifest.major);
  bool valid = major_error == std::errc() && dot != end && *dot == '.';
  if (valid) {
    const auto [rest, minor_error] = std::from_chars(dot + 1, end, manifest.minor);
    valid = minor_error == std::errc() && rest == end;
  }
  if (!valid || manifest.major < 1 || manifest.minor < 0) {
    document.refuse("agp_edge_manifest", shown(Json(version)), "a version such as \"1.0\"");
  }
}

void parse_input(const Section& input, Manifest& manifest) {
  manifest.input_name = input.name("name");
  input.one_of("dtype", {"float32", "float16"});
  PreprocessRecipe& recipe = manifest.preprocess;
  recipe.height = input.integer("height", 1, kMaxSide);
  recipe.width = input.integer("width", 1, kMaxSide);
  recipe.channels = channel_order_from(input.one_of("channels", {"rgb", "bgr"}));
  recipe.mean = input.triple("mean", -1e6, true);
  recipe.stddev = input.triple("std", 0, false);
  for (const float value : recipe.stddev) {
    // A denormal divides to infinity.
    if (value < std::numeric_limits<float>::min()) {
      input.refuse("std", shown(input.at("std")), "three numbers above 1e-37");
    }
  }
  recipe.resize = resize_rule_from(input.one_of("resize", {"antialias", "area"}));
  recipe.roi = input.rect("roi");
}

void parse_output(const Section& output, const Section& postprocess, Manifest& manifest) {
  manifest.output_name = output.name("name");
  output.one_of("dtype", {"float32", "float16"});
  PostprocessRecipe& recipe = manifest.postprocess;
  recipe.grid_height = output.integer("height", 1, kMaxSide);
  recipe.grid_width = output.integer("width", 1, kMaxSide);
  recipe.map_height = manifest.preprocess.height;
  recipe.map_width = manifest.preprocess.width;
  recipe.sigma = static_cast<float>(postprocess.number("sigma", 0, kMaxSigma));
  recipe.score = score_rule_from(postprocess.one_of("score", {"max", "top_mean", "power_mean"}));
  recipe.top_share = static_cast<float>(postprocess.number("top_share", 0, 1, false));
  if (recipe.score == ScoreRule::kPowerMean) {
    recipe.power = postprocess.integer("power", 1, kMostPower);
  }
}

void parse_threshold(const Section& document, Manifest& manifest) {
  if (document.at("threshold").is_null()) return;
  const Section threshold = document.section("threshold");
  manifest.threshold = threshold.real("value");
  if (threshold.has("mask_value") && !threshold.at("mask_value").is_null()) {
    manifest.mask_threshold = threshold.real("mask_value");
  }
  threshold.text("method");
  threshold.number("false_reject", 0, 1);
  threshold.integer("n", 0, kMaxInt);
  threshold.one_of("unit", {"images", "parts"});
  if (threshold.has("tail") && !threshold.at("tail").is_null()) {
    const Section tail = threshold.section("tail");
    CalibrationTail& read = manifest.calibration_tail.emplace();
    read.n = tail.integer("n", 1, kMaxInt);
    read.scores = tail.reals("scores", static_cast<std::size_t>(read.n));
    std::sort(read.scores.begin(), read.scores.end());
  }
}

// Keys that no frame needs may be missing, but not be nonsense.
void check_record(const Section& document) {
  for (const char* key : {"setup", "created"}) {
    if (document.has(key)) document.text(key);
  }
  for (const char* key : {"versions", "hashes"}) {
    if (document.has(key)) document.check_table(key);
  }
  if (document.has("classes")) document.check_strings("classes");
  if (document.has("opset")) document.integer("opset", 0, kMaxInt);
  if (document.has("precision")) {
    const Section precision = document.section("precision");
    precision.text("asked");
    if (precision.has("built") && !precision.at("built").is_null()) precision.text("built");
  }
  if (document.has("self_test") && !document.at("self_test").is_null()) {
    const Section self_test = document.section("self_test");
    self_test.integer("seed", 0, kMaxInt);
    self_test.real("score");
  }
}

}  // namespace

Manifest Manifest::parse(const std::string& json, const std::string& source) {
  Json document;
  try {
    document = Json::parse(json, [&source](int depth, Json::parse_event_t, const Json&) {
      if (depth > kMaxDepth) {
        throw ModelError("the manifest of '" + source + "' nests deeper than " +
                         std::to_string(kMaxDepth) + " levels: export the model again");
      }
      return true;
    });
  } catch (const Json::exception& error) {
    throw ModelError("the manifest of '" + source + "' is not valid JSON (" +
                     shortened(error.what(), 200) + "): export the model again");
  }
  if (!document.is_object()) {
    throw ModelError("the manifest of '" + source + "' is " + shown(document) +
                     ", a JSON object is expected: export the model again");
  }

  Manifest manifest;
  const Section root(document, source, "");
  parse_version(root, manifest);
  if (manifest.major > kMajor) {
    throw ModelError("the manifest of '" + source + "' is of version " +
                     std::to_string(manifest.major) + "." + std::to_string(manifest.minor) +
                     ", this library reads versions up to " + std::to_string(kMajor) +
                     ".x: install a newer agp-edge");
  }
  manifest.name = root.name("name");
  root.name("backbone");
  parse_input(root.section("input"), manifest);
  parse_output(root.section("output"), root.section("postprocess"), manifest);
  parse_threshold(root, manifest);
  check_record(root);
  manifest.json = json;
  return manifest;
}

}  // namespace agp_edge
