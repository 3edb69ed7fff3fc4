#include <ctime>
#include <random>

#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "agp_edge/manifest.hpp"
#include "check.hpp"
#include "model/model_file.hpp"
#include "models.hpp"

using agp_edge::ModelError;
using agp_edge::ModelKind;
using agp_edge::read_manifest_json;
using agp_edge::read_model_file;
using models::TemporaryFile;

namespace {

const std::string& document() {
  static const std::string text = models::manifest().dump();
  return text;
}

std::string onnx() {
  return models::average_onnx() + models::metadata(agp_edge::kManifestKey, document());
}

// What a plan is to us: bytes with the document somewhere in them.
std::string plan(const std::string& name, std::size_t before = 5000, std::size_t after = 3000) {
  std::string bytes = "ftrt" + std::string(before, '\x91');
  return bytes + '\0' + name + '\0' + std::string(after, '{');
}

}  // namespace

TEST(onnx_metadata_is_found) {
  const TemporaryFile file(onnx());
  CHECK(read_manifest_json(file.path()) == document());
  CHECK(read_model_file(file.path()).kind == ModelKind::kOnnx);
}

TEST(onnx_is_told_by_content_not_by_name) {
  const TemporaryFile file(onnx(), ".plan");
  CHECK(read_model_file(file.path()).kind == ModelKind::kOnnx);
  const TemporaryFile other(plan(document()), ".onnx");
  CHECK(read_model_file(other.path()).kind == ModelKind::kPlan);
}

TEST(onnx_with_other_metadata_and_fields_in_any_order) {
  const TemporaryFile file(models::metadata("author", "x") +
                           models::metadata(agp_edge::kManifestKey, document()) +
                           models::average_onnx() + models::bytes(6, "doc") +
                           models::number(99, 7) + models::metadata("agp_edge.manifesto", "y"));
  CHECK(read_manifest_json(file.path()) == document());
  // the entry alone, key and length included
  const auto [begin, end] = agp_edge::manifest_extent(file.path());
  CHECK(begin == models::metadata("author", "x").size());
  CHECK(end - begin == models::metadata(agp_edge::kManifestKey, document()).size());
  const TemporaryFile other(plan(document()));
  CHECK(agp_edge::manifest_extent(other.path()) ==
        std::make_pair(std::uint64_t{0}, std::uint64_t{0}));
}

TEST(onnx_of_others) {
  const TemporaryFile file(models::average_onnx() + models::metadata("author", "x"));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "without an agp_edge manifest");
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, file.path());
}

TEST(onnx_with_two_manifests) {
  const TemporaryFile file(onnx() + models::metadata(agp_edge::kManifestKey, document()));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "two manifests");
}

TEST(onnx_with_a_boundless_manifest) {
  const TemporaryFile file(models::average_onnx() +
                           models::metadata(agp_edge::kManifestKey, std::string(2U << 20U, ' ')));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "has 2097152 bytes, at most 1048576");
}

TEST(weights_are_skipped_not_read) {
  // A sparse 5 GiB graph: over every 32-bit length, and unreadable in the time allowed.
  constexpr std::uint64_t kWeights = 5ULL << 30U;
  const std::string head = models::number(1, 8) + models::length_field(7, kWeights);
  const TemporaryFile file(head);
  std::filesystem::resize_file(file.path(), head.size() + kWeights);
  {
    std::ofstream tail(file.path(), std::ios::binary | std::ios::app);
    tail << models::metadata(agp_edge::kManifestKey, document());
  }
  const std::clock_t start = std::clock();  // processor time: the machine may be busy elsewhere
  CHECK(read_manifest_json(file.path()) == document());
  CHECK(std::clock() - start < CLOCKS_PER_SEC / 5);
}

TEST(every_truncation_of_an_onnx_file_is_refused) {
  const std::string whole = onnx();
  const TemporaryFile file("");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    file.write(whole.substr(0, size));
    CHECK_THROWS(read_manifest_json(file.path()), ModelError, file.path());
  }
  file.write(whole.substr(0, whole.size() - 10));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "truncated or corrupt");
}

TEST(mutated_files_give_a_text_or_a_model_error) {
  const std::string originals[] = {onnx(), plan(document(), 300, 300)};
  std::mt19937 random(7);
  const TemporaryFile file("");
  int texts = 0;
  int refusals = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = originals[round % 2];
    for (unsigned flips = 1 + random() % 4; flips > 0; --flips) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = '\xFF';  // lengths that run away
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, models::varint(static_cast<std::uint64_t>(random()) << (random() % 32)));
      }
      if (bytes.empty()) bytes = "x";
    }
    file.write(bytes);
    try {
      const std::string text = read_manifest_json(file.path());
      ++texts;
      CHECK(text.size() < bytes.size());
    } catch (const ModelError&) {
      ++refusals;
    }
  }
  // Both ends of the code have run.
  CHECK(texts > 100 && refusals > 100);
}

TEST(plan_name_is_found_at_any_offset) {
  // Around the edges of the chunks in which a plan is read.
  constexpr std::size_t kChunk = 1U << 20U;
  const TemporaryFile file("");
  for (const std::size_t edge : {std::size_t{0}, kChunk, 2 * kChunk}) {
    for (const std::size_t shift : {0, 1, 500, 4094, 4095, 4096, 4200}) {
      file.write(plan(document(), edge + 5000 - shift, 10));
      CHECK(read_manifest_json(file.path()) == document());
      file.write(plan(document(), edge + 5000 - shift, kChunk));
      CHECK(read_manifest_json(file.path()) == document());
    }
  }
}

TEST(plan_with_braces_and_quotes_in_strings) {
  models::Json tricky = models::manifest();
  tricky["name"] = "}{\"\\ {}";
  const TemporaryFile file(plan(tricky.dump()));
  CHECK(read_manifest_json(file.path()) == tricky.dump());
}

TEST(plan_that_repeats_its_name) {
  const TemporaryFile file(plan(document()) + plan(document()));
  CHECK(read_manifest_json(file.path()) == document());
}

TEST(plan_with_two_different_manifests) {
  models::Json other = models::manifest();
  other["name"] = "other";
  const TemporaryFile file(plan(document()) + plan(other.dump(), 3U << 20U));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "two different agp_edge manifests");
}

TEST(plan_cut_inside_its_manifest) {
  const std::string whole = plan(document(), 100, 0);
  const TemporaryFile file(whole.substr(0, whole.size() - 100));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "has no end");
}

TEST(plan_manifest_longer_than_a_network_name) {
  models::Json longer = models::manifest();
  longer["name"] = std::string(5000, 'n');
  const TemporaryFile file(plan(longer.dump()));
  CHECK_THROWS(read_manifest_json(file.path()), ModelError, "has no end");
}

TEST(bytes_in_memory_are_read_like_a_file) {
  for (const std::string& bytes : {onnx(), plan(document()), plan(document(), 3U << 20U, 7)}) {
    CHECK(read_manifest_json(std::string_view(bytes), "m") == document());
  }
  const std::string whole = onnx();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);  // on the heap: a read past its end shows
    CHECK_THROWS(read_manifest_json(std::string_view(cut), "the name"), ModelError, "'the name'");
  }
}

namespace {

// A TensorProto that says where its values are: external_data = 13, key = 1, value = 2.
std::string external_tensor(const std::string& location) {
  return models::bytes(13, models::bytes(1, "location") + models::bytes(2, location));
}

}  // namespace

TEST(weights_in_another_file) {
  using agp_edge::refuse_external_data;
  constexpr std::size_t kChunk = 1U << 20U;  // in which a file is read
  const TemporaryFile file("");
  for (const std::size_t before : {std::size_t{0}, kChunk, 2 * kChunk}) {
    for (const std::size_t shift : {0, 1, 9, 10, 11, 20, 300, 4100, 4200}) {
      const std::string padding(before + 5000 - shift, '\x80');
      const std::string bytes = padding + external_tensor("weights.bin") + std::string(7, 'x');
      file.write(bytes);
      CHECK_THROWS(refuse_external_data(file.path()), ModelError,
                   "'" + file.path() + "' keeps weights in another file, 'weights.bin', which");
      CHECK_THROWS(refuse_external_data(bytes, "m"), ModelError, "'weights.bin'");
    }
  }
  // The same key in metadata, or cut off at the end of the file.
  file.write(std::string(kChunk, 'x') + models::metadata("location", "hall 4"));
  refuse_external_data(file.path());
  file.write("\x0A\x08location");
  refuse_external_data(file.path());
  file.write("\x6A\x0B\x0A\x08location\x12");
  CHECK_THROWS(refuse_external_data(file.path()), ModelError, "another file, '', which");
  file.write("\x6A\x7F\x0A\x08location\x12\xFF\xFF\xFF\xFF\x7Fw");  // a length that runs away
  CHECK_THROWS(refuse_external_data(file.path()), ModelError, "another file, 'w', which");
  CHECK_THROWS(refuse_external_data("/no/such.onnx"), ModelError, "does not exist");
}

TEST(detector_refuses_weights_in_another_file) {
  // Before any engine is asked for: the sentence is the same where OpenVINO is not there.
  const TemporaryFile file(models::number(1, 8) +
                           models::bytes(7, models::bytes(5, external_tensor("weights.bin"))) +
                           models::metadata(agp_edge::kManifestKey, document()));
  CHECK_THROWS(agp_edge::Detector(file.path()), ModelError, "in another file, 'weights.bin'");
}

TEST(foreign_files) {
  for (const char* text : {"hello", "{\"json\": 1}", "\x89PNG\r\n", "PK\x03\x04", "\n\n", "rrrr",
                           "ftrt without a manifest"}) {
    const TemporaryFile file(text);
    CHECK_THROWS(read_manifest_json(file.path()), ModelError, "is no model of agp_edge");
  }
}

TEST(things_that_are_no_file) {
  CHECK_THROWS(read_manifest_json("/no/such/file.onnx"), ModelError,
               "'/no/such/file.onnx' does not exist");
  const std::string folder = std::filesystem::temp_directory_path().string();
  CHECK_THROWS(read_manifest_json(folder), ModelError, "is a folder");
  CHECK_THROWS(read_manifest_json("/dev/zero"), ModelError, "not a regular file");
  CHECK_THROWS(read_manifest_json(""), ModelError, "does not exist");
  CHECK_THROWS(read_manifest_json(std::string("a\0b", 3)), ModelError, "zero byte");
  const TemporaryFile empty("");
  CHECK_THROWS(read_manifest_json(empty.path()), ModelError, "is empty");
}

CHECK_MAIN()
