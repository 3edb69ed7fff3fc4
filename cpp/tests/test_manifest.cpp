#include <limits>

#include "agp_edge/error.hpp"
#include "agp_edge/manifest.hpp"
#include "check.hpp"
#include "models.hpp"

using agp_edge::Manifest;
using agp_edge::ModelError;
using models::Json;

namespace {

Manifest parse(const Json& document) { return Manifest::parse(document.dump(), "m.onnx"); }

// The document with one value changed; `pointer` as in RFC 6901.
Json with(const std::string& pointer, const Json& value) {
  Json document = models::manifest();
  document[Json::json_pointer(pointer)] = value;
  return document;
}

std::string refusal(const Json& document) {
  try {
    parse(document);
  } catch (const ModelError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(a_power_mean_brings_its_power) {
  Json document = models::manifest();
  document["postprocess"]["score"] = "power_mean";
  CHECK_THROWS(parse(document), ModelError, "lacks the key 'postprocess.power'");
  document["postprocess"]["power"] = 65;
  CHECK_THROWS(parse(document), ModelError, "postprocess.power 65");
  document["postprocess"]["power"] = 16;
  const agp_edge::PostprocessRecipe& post = parse(document).postprocess;
  CHECK(post.score == agp_edge::ScoreRule::kPowerMean && post.power == 16);
}

TEST(every_value_arrives) {
  Json document = models::manifest();
  document["input"]["channels"] = "bgr";
  document["input"]["resize"] = "area";
  document["input"]["roi"] = {1, 2, 3, 4};
  document["input"]["width"] = 48;
  document["postprocess"] = {{"sigma", 2.5}, {"score", "top_mean"}, {"top_share", 0.25}};
  document["threshold"]["mask_value"] = 12.5;
  const Manifest manifest = parse(document);
  CHECK(manifest.major == 1 && manifest.minor == 0);
  CHECK(manifest.name == "small");
  CHECK(manifest.input_name == "image" && manifest.output_name == "distance");
  const agp_edge::PreprocessRecipe& pre = manifest.preprocess;
  CHECK(pre.height == 32 && pre.width == 48);
  CHECK(pre.channels == agp_edge::ChannelOrder::kBgr);
  CHECK(pre.resize == agp_edge::ResizeRule::kArea);
  CHECK(pre.mean[0] == 10 && pre.mean[1] == 20 && pre.mean[2] == 30);
  CHECK(pre.stddev[0] == 2 && pre.stddev[1] == 4 && pre.stddev[2] == 5);
  CHECK(pre.roi.x == 1 && pre.roi.y == 2 && pre.roi.width == 3 && pre.roi.height == 4);
  const agp_edge::PostprocessRecipe& post = manifest.postprocess;
  CHECK(post.grid_height == 4 && post.grid_width == 4);
  CHECK(post.map_height == 32 && post.map_width == 48);
  CHECK(post.sigma == 2.5F && post.score == agp_edge::ScoreRule::kTopMean);
  CHECK(post.top_share == 0.25F);
  CHECK(manifest.threshold == 25.0F && manifest.mask_threshold == 12.5F);
  CHECK(manifest.json == document.dump());
}

TEST(nulls_mean_nothing_is_set) {
  Manifest manifest = parse(models::manifest());
  CHECK(manifest.threshold.has_value() && !manifest.mask_threshold.has_value());
  CHECK(manifest.preprocess.roi.empty());
  manifest = parse(with("/threshold", nullptr));
  CHECK(!manifest.threshold.has_value() && !manifest.mask_threshold.has_value());
}

TEST(calibration_tail) {
  CHECK(!parse(models::manifest()).calibration_tail.has_value());
  CHECK(!parse(with("/threshold/tail", nullptr)).calibration_tail.has_value());
  const Json tail = {{"n", 40}, {"scores", {3.5, 2.5}}};
  const Manifest manifest = parse(with("/threshold/tail", tail));
  CHECK(manifest.calibration_tail->n == 40);
  CHECK(manifest.calibration_tail->scores == std::vector<float>({2.5F, 3.5F}));
  CHECK(refusal(with("/threshold/tail", {{"n", 1}, {"scores", {1, 2}}})).find("1 to 1 numbers") !=
        std::string::npos);
  CHECK(refusal(with("/threshold/tail", {{"n", 1}, {"scores", {"a"}}})).find("a number") !=
        std::string::npos);
  CHECK(refusal(with("/threshold/tail", {{"n", 1}})).find("threshold.tail.scores") !=
        std::string::npos);
}

TEST(newer_minor_is_read_with_its_unknown_keys) {
  Json document = with("/agp_edge_manifest", "1.7");
  document["tail"] = {1, 2, 3};
  document["input"]["new_key"] = "x";
  const Manifest manifest = parse(document);
  CHECK(manifest.major == 1 && manifest.minor == 7);
}

TEST(newer_major_is_refused_before_anything_else) {
  const Json document = {{"agp_edge_manifest", "2.0"}};
  CHECK_THROWS(parse(document), ModelError, "'m.onnx' is of version 2.0");
  CHECK_THROWS(parse(document), ModelError, "install a newer agp-edge");
}

TEST(versions_that_are_none) {
  for (const char* version :
       {"", "1", "1.", ".0", "1.0.0", "1.0 ", "one", "0.9", "-1.0", "1.-1", "99999999999.0"}) {
    CHECK_THROWS(parse(with("/agp_edge_manifest", version)), ModelError, "agp_edge_manifest");
  }
  CHECK_THROWS(parse(with("/agp_edge_manifest", 1.0)), ModelError, "a string is expected");
}

TEST(every_needed_key_is_missed_by_name) {
  for (const char* pointer : {"/agp_edge_manifest", "/name",
                              "/backbone",          "/input",
                              "/input/name",        "/input/height",
                              "/input/width",       "/input/mean",
                              "/input/std",         "/input/dtype",
                              "/input/channels",    "/input/resize",
                              "/input/roi",         "/output",
                              "/output/name",       "/output/height",
                              "/output/width",      "/output/dtype",
                              "/postprocess",       "/postprocess/sigma",
                              "/postprocess/score", "/postprocess/top_share",
                              "/threshold",         "/threshold/value",
                              "/threshold/method",  "/threshold/false_reject",
                              "/threshold/n",       "/threshold/unit"}) {
    const Json::json_pointer at(pointer);
    Json document = models::manifest();
    document[at.parent_pointer()].erase(at.back());
    std::string key = std::string(pointer).substr(1);
    if (const auto slash = key.find('/'); slash != std::string::npos) key[slash] = '.';
    CHECK_THROWS(parse(document), ModelError, "'m.onnx' lacks the key '" + key + "'");
  }
}

TEST(wrong_types_and_ranges_name_key_and_expectation) {
  struct Case {
    const char* pointer;
    Json value;
    const char* message;
  };
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  const Case cases[] = {
      {"/name", 3, "name 3, a string is expected"},
      {"/name", "", "name \"\", a non-empty string"},
      {"/input", Json::array(), "input [], an object"},
      {"/input/name", nullptr, "input.name null, a string"},
      {"/input/height", 0, "input.height 0, an integer from 1 to 16384"},
      {"/input/height", -5, "input.height -5, an integer"},
      {"/input/height", 256.0, "input.height 256.0, an integer"},
      {"/input/height", "256", "input.height \"256\", an integer"},
      {"/input/width", 1000000000000, "input.width 1000000000000, an integer"},
      {"/input/width", huge, "input.width 18446744073709551615, an integer"},
      {"/input/mean", Json::array({1, 2}), "input.mean [1,2], a list of 3 numbers"},
      {"/input/mean/1", "x", "input.mean[1] \"x\", a number"},
      {"/input/std/2", 0, "input.std[2] 0, a number above 0"},
      {"/input/std/0", -1.5, "input.std[0] -1.5, a number above 0"},
      {"/input/std/0", 1e-300, "three numbers above"},
      {"/input/mean/0", 1e300, "input.mean[0] 1e+300, a number"},
      {"/input/channels", "RGB", "input.channels \"RGB\", \"rgb\" or \"bgr\" is expected"},
      {"/input/dtype", "int8", "input.dtype \"int8\", \"float32\" or \"float16\""},
      {"/input/resize", "nearest", "input.resize \"nearest\", \"antialias\" or \"area\""},
      {"/input/roi", Json::array({1, 2, 3}), "input.roi [1,2,3], null or a list of 4 integers"},
      {"/input/roi", Json::array({1, 2, 3, 0}), "input.roi[3] 0, an integer from 1"},
      {"/input/roi", Json::array({-1, 2, 3, 4}), "input.roi[0] -1, an integer from 0"},
      {"/output/height", 0, "output.height 0, an integer from 1"},
      {"/postprocess/sigma", -0.5, "postprocess.sigma -0.5, a number from 0"},
      {"/postprocess/sigma", nullptr, "postprocess.sigma null, a number"},
      {"/postprocess/score", "mean",
       "postprocess.score \"mean\", \"max\" or \"top_mean\" or \"power_mean\""},
      {"/postprocess/top_share", 0, "postprocess.top_share 0, a number above 0"},
      {"/postprocess/top_share", 1.5, "postprocess.top_share 1.5, a number above 0"},
      {"/threshold", 5, "threshold 5, an object"},
      {"/threshold/value", "high", "threshold.value \"high\", a number"},
      {"/threshold/value", 1e300, "threshold.value 1e+300, a number"},
      {"/threshold/mask_value", true, "threshold.mask_value true, a number"},
      {"/threshold/false_reject", 2, "threshold.false_reject 2, a number"},
      {"/threshold/n", -1, "threshold.n -1, an integer"},
      {"/threshold/unit", "frames", "threshold.unit \"frames\", \"images\" or \"parts\""},
      {"/classes", "tile", "classes \"tile\", a list of strings"},
      {"/classes", Json::array({1}), "classes [1], a list of strings"},
      {"/versions/torch", 2, "versions.torch 2, a string"},
      {"/hashes", Json::array(), "hashes [], an object"},
      {"/precision/built", 3, "precision.built 3, a string"},
      {"/opset", "18", "opset \"18\", an integer"},
      {"/self_test/seed", -1, "self_test.seed -1, an integer"},
      {"/self_test/score", nullptr, "self_test.score null, a number"},
      {"/created", 2026, "created 2026, a string"},
  };
  for (const Case& wrong : cases) {
    CHECK_THROWS(parse(with(wrong.pointer, wrong.value)), ModelError, wrong.message);
    CHECK_THROWS(parse(with(wrong.pointer, wrong.value)), ModelError, "the manifest of 'm.onnx'");
  }
}

TEST(record_keys_may_be_absent) {
  Json document = models::manifest();
  for (const char* key :
       {"setup", "classes", "precision", "opset", "versions", "hashes", "created", "self_test"}) {
    document.erase(key);
  }
  CHECK(refusal(document).empty());
}

TEST(text_that_is_no_document) {
  for (const char* text :
       {"", "{", "{\"agp_edge_manifest\":", "\xFF\xFE", "{\"a\":NaN}", "{} {}"}) {
    CHECK_THROWS(Manifest::parse(text, "m.onnx"), ModelError, "is not valid JSON");
  }
  CHECK_THROWS(Manifest::parse("[1]", "m.onnx"), ModelError, "a JSON object is expected");
  CHECK_THROWS(Manifest::parse("null", "m.onnx"), ModelError, "a JSON object is expected");
  // As deep as a stack would not take it, cut off and whole, alone and under a known key.
  const std::string open(500000, '[');
  const std::string whole = open + std::string(500000, ']');
  for (const std::string& text : {open, whole, "{\"agp_edge_manifest\":" + whole + "}"}) {
    CHECK_THROWS(Manifest::parse(text, "m.onnx"), ModelError, "nests deeper than 64 levels");
  }
}

TEST(a_long_value_is_shown_short) {
  const std::string message = refusal(with("/input/channels", std::string(100000, 'x')));
  CHECK(message.size() < 400);
  try {
    Manifest::parse("[" + std::string(100000, 'x'), "m.onnx");
    CHECK(false);
  } catch (const ModelError& error) {
    CHECK(std::string(error.what()).size() < 400);
  }
}

CHECK_MAIN()
