// The frame's way on the GPU when something fails, on the fake driver: one clear error, nothing
// left behind, and the process goes on.
#include <cmath>
#include <functional>
#include <optional>
#include <string>

#include "agp_edge/error.hpp"
#include "agp_edge/tensorrt_engine.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_pipeline.hpp"

namespace {

using namespace cuda_pipeline;

Decision decision_of(float threshold) {
  Decision decision;
  decision.threshold = decision.mask_threshold = threshold;
  return decision;
}

const Decision kDecision = decision_of(5.0F);

const Picture& picture() {
  static const Picture made(40, 48, PixelFormat::kBgr8, 1, 4);
  return made;
}

float expected_score(const Frame& frame) {
  BlockMean mean;
  PipelineOptions options;
  options.threads = 1;
  return pipeline_of(mean, Memory::kHost, options)->score(frame, kDecision).score;
}

void check_score(Pipeline& pipeline, const Picture& of, const Frame& frame) {
  static const float usual = expected_score(picture().frame());
  const float expected = &of == &picture() ? usual : expected_score(of.frame());
  CHECK_NEAR(pipeline.score(frame, kDecision).score, expected, 1e-3);
}

// A pipeline works, and everything that it took is given back.
void check_works() {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), picture().frame());
  }
  CHECK(fake_cuda::live() == 0);
}

// Memory of the GPU 0, or of another, with a stream of its own; kept by the test.
struct Producer {
  explicit Producer(std::size_t bytes, int device = 0)
      : context(std::make_shared<cuda::Context>(device)),
        pinned(context, bytes),
        memory(context, bytes),
        stream(context) {}

  // The pixels are under way, and there when somebody waits for the stream.
  Frame send(const Picture& of) {
    std::memcpy(pinned.data(), of.frame().data, of.bytes());
    const cuda::Current current(*context);
    stream.upload(memory.address(), pinned.data(), of.bytes());
    Frame frame = of.at(memory.pointer(), Memory::kDevice);
    frame.device = context->device().index;
    frame.stream = stream.get();
    return frame;
  }
  void wait() {
    const cuda::Current current(*context);
    stream.synchronize();
  }

  std::shared_ptr<const cuda::Context> context;
  cuda::PinnedBuffer pinned;
  cuda::DeviceBuffer memory;
  cuda::OwnedStream stream;
};

class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
  }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

// What the library logs until the end of the scope.
class Log {
 public:
  Log() {
    set_tensorrt_log([this](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarning) lines.push_back(message);
    });
  }
  ~Log() { set_tensorrt_log(nullptr); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  std::vector<std::string> lines;
};

bool is_reset(const Error& error) {
  return std::string(error.what()).find("was reset after an error") != std::string::npos;
}

// A construction, frames of each kind, replays: what a fault may meet.
void live_a_life(const std::function<void(Pipeline&)>& after_error) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  Producer producer(picture().bytes());
  try {
    for (int i = 0; i < 3; ++i) check_score(*pipeline, picture(), picture().frame());
    for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), producer.send(picture()));
    check_score(*pipeline, picture(), picture().at(producer.pinned.data()));
  } catch (const Error& error) {
    // The producer's construction found the context broken, and reset the GPU.
    if (!is_reset(error)) after_error(*pipeline);
    throw;
  }
}

// Lives with the n-th call failing, for every n, until none is reached. Returns how many threw.
int with_each_call_failing(bool sticky, const std::function<void(Pipeline&)>& after_error) {
  check_works();  // starts the driver
  int threw = 0;
  const int failures = check::failures();
  for (int call = 1; call < 1000; ++call) {
    bool reached = false;
    {
      const fake_cuda::Failing failing("*", call, sticky);
      try {
        live_a_life(after_error);
      } catch (const DeviceError& error) {
        ++threw;
        const std::string text = error.what();
        CHECK(is_reset(error) || text.find("CUDA_ERROR_") != std::string::npos ||
              text.find("is broken since an earlier error") != std::string::npos);
      } catch (const FrameError& error) {  // the answer was about the frame's memory or stream
        ++threw;
        CHECK(std::string(error.what()).find("the frame's ") == 0);
      } catch (const ModelError& error) {  // the engine's function met it
        ++threw;
        CHECK(std::string(error.what()).find("its launch failed") != std::string::npos);
      }
      reached = fake_cuda::calls("*") >= call;
    }
    CHECK(fake_cuda::live() == 0);
    if (check::failures() > failures) {
      std::fprintf(stderr, "with call %d, %s, failing%s\n", call, fake_cuda::failed(),
                   sticky ? ", and all later ones" : "");
      return threw;
    }
    if (call % 10 == 0 || !reached) check_works();
    if (!reached) return threw;
  }
  return threw;
}

TEST(any_one_call_fails) {
  const int threw = with_each_call_failing(false, [](Pipeline& pipeline) {
    // Whatever it was, it is over.
    check_score(pipeline, picture(), picture().frame());
  });
  CHECK(threw > 60);
}

TEST(any_call_breaks_the_context) {
  const int threw = with_each_call_failing(true, [](Pipeline& pipeline) {
    CHECK_THROWS(pipeline.score(picture().frame(), kDecision), DeviceError, "open the model again");
    CHECK_THROWS(pipeline.score(picture().frame(), kDecision), DeviceError, "broken");
  });
  CHECK(threw > 60);
}

TEST(next_construction_works_while_the_broken_one_is_there) {
  {
    BlockMean mean;
    const auto broken = pipeline_of(mean, Memory::kDevice);
    check_score(*broken, picture(), picture().frame());
    {
      const fake_cuda::Failing failing("cuEventQuery", 1, true);
      CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError,
                   "the work on the GPU failed with CUDA_ERROR_ILLEGAL_ADDRESS");
    }
    BlockMean other;
    const auto fresh = pipeline_of(other, Memory::kDevice);
    for (int i = 0; i < 3; ++i) check_score(*fresh, picture(), picture().frame());
    CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError, "broken");
    check_score(*fresh, picture(), picture().frame());
  }  // the broken one frees nothing that is not its own any more: the fake would end the program
  check_works();
}

TEST(other_detectors_of_a_reset_gpu_say_so) {
  {
    BlockMean mean;
    const auto broken = pipeline_of(mean, Memory::kDevice);
    BlockMean bystanders;
    const auto bystander = pipeline_of(bystanders, Memory::kDevice);
    check_score(*bystander, picture(), picture().frame());
    {
      const fake_cuda::Failing failing("cuEventRecord", 1, true);
      CHECK_THROWS(broken->score(picture().frame(), kDecision), DeviceError, "CUDA_ERROR_");
    }
    BlockMean other;
    const auto fresh = pipeline_of(other, Memory::kDevice);
    CHECK_THROWS(bystander->score(picture().frame(), kDecision), DeviceError,
                 "was reset after an error");
    check_score(*fresh, picture(), picture().frame());
  }
  check_works();
}

TEST(out_of_memory_at_load_and_at_run) {
  check_works();
  BlockMean mean;
  {
    const Environment little("AGP_EDGE_FAKE_CUDA_MEMORY", "1000");
    CHECK_THROWS(
        pipeline_of(mean, Memory::kDevice), DeviceError,
        "allocating 12288 bytes on Fake GPU 0 failed with CUDA_ERROR_OUT_OF_MEMORY (out of "
        "memory): close other programs");
  }
  CHECK(fake_cuda::live() == 0);
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  check_score(*pipeline, picture(), picture().frame());
  const Picture large(2000, 2000, PixelFormat::kBgr8, 2);
  {
    const Environment little("AGP_EDGE_FAKE_CUDA_MEMORY", "1000000");
    for (int i = 0; i < 3; ++i) {
      CHECK_THROWS(pipeline->score(large.frame(), kDecision), DeviceError, "OUT_OF_MEMORY");
      check_score(*pipeline, picture(), picture().frame());
    }
  }
  check_score(*pipeline, large, large.frame());
}

TEST(engine_that_writes_nothing_is_refused) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  mean.behaviour = BlockMean::kWritesNothing;
  for (int i = 0; i < 2; ++i) {
    CHECK_THROWS(pipeline->score(picture().frame(), kDecision), ModelError, "finite");
  }
  mean.behaviour = BlockMean::kGood;
  for (int i = 0; i < 2; ++i) check_score(*pipeline, picture(), picture().frame());
}

TEST(engine_that_fails_leaves_nothing_at_work) {
  {
    BlockMean mean;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    mean.behaviour = BlockMean::kThrows;
    CHECK_THROWS(pipeline->score(picture().frame(), kDecision), ModelError, "told to fail");
    mean.behaviour = BlockMean::kGood;
    check_score(*pipeline, picture(), picture().frame());
  }  // the fake driver aborts when a stream with work left is destroyed
  CHECK(fake_cuda::live() == 0);
}

TEST(engine_that_cannot_be_recorded_is_called_for_each_frame) {
  for (const auto behaviour : {BlockMean::kSynchronises, BlockMean::kThrowsSecond}) {
    const Log log;
    BlockMean mean;
    mean.behaviour = behaviour;
    const auto pipeline = pipeline_of(mean, Memory::kDevice);
    for (int i = 0; i < 3; ++i) check_score(*pipeline, picture(), picture().frame());
    const Picture other(44, 44, PixelFormat::kMono8, 3);
    check_score(*pipeline, other, other.frame());
    CHECK(log.lines.size() == 1);
    CHECK(log.lines[0].find("the work of block mean cannot be recorded as a CUDA graph (") == 0);
    CHECK(mean.calls == 5);  // each frame, and the one attempt
    fake_cuda::forget_calls();
    pipeline->score(picture().frame(), kDecision);
    CHECK(fake_cuda::calls("cuGraphLaunch") == 0);
    CHECK(fake_cuda::calls("cuMemAlloc_v2") == 0);
  }
  CHECK(fake_cuda::live() == 0);
}

// Its work is done when it returns, and nothing of it would be in a graph.
TEST(engine_beside_the_stream_is_called_for_each_frame) {
  const Log log;
  struct Beside {
    static int enqueue(void* user, Stream stream, const void* const* in, void* const* out,
                       char* error, std::size_t error_bytes) {
      using Ask = int(Stream, int*);
      int capturing = 0;
      fake_cuda::function<Ask>("cuStreamIsCapturing")(stream, &capturing);
      if (capturing != 0) return 0;
      const int failed = BlockMean::enqueue(user, stream, in, out, error, error_bytes);
      return failed != 0 ? failed : fake_cuda::function<int(Stream)>("cuStreamSynchronize")(stream);
    }
  };
  BlockMean mean;
  const auto named = engine_of(mean, Memory::kDevice);
  const auto engine =
      std::make_shared<CallableEngine>("beside", named->inputs(), named->outputs(),
                                       &Beside::enqueue, &mean, nullptr, Memory::kDevice);
  const Recipes recipes;
  Pipeline pipeline(engine, recipes.preprocess, recipes.postprocess);
  for (int i = 0; i < 3; ++i) check_score(pipeline, picture(), picture().frame());
  CHECK(log.lines.size() == 1);
  CHECK(log.lines[0].find("puts nothing into the stream") != std::string::npos);
}

TEST(producers_stream_is_waited_for) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  Producer producer(picture().bytes());
  const Picture other(40, 48, PixelFormat::kBgr8, 9, 4);
  for (int i = 0; i < 3; ++i) {
    check_score(*pipeline, picture(), producer.send(picture()));
    check_score(*pipeline, other, producer.send(other));
  }
  // Without its stream, what was there before is read: so the wait is what makes it right.
  Frame frame = producer.send(picture());
  frame.stream = nullptr;
  CHECK(std::abs(pipeline->score(frame, kDecision).score - expected_score(picture().frame())) >
        1e-3);
  producer.wait();
  check_score(*pipeline, picture(), frame);
}

TEST(default_streams_are_waited_for) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  Producer producer(picture().bytes());
  const Picture blank(40, 48, PixelFormat::kBgr8, 10, 4);
  using Copy = int(cuda::Address, const void*, std::size_t, Stream);
  for (const std::uintptr_t handle : {1, 2}) {
    const auto stream = reinterpret_cast<Stream>(handle);
    for (const Picture* each : {&picture(), &blank}) {
      std::memcpy(producer.pinned.data(), each->frame().data, each->bytes());
      const cuda::Current current(*producer.context);
      CHECK(fake_cuda::function<Copy>("cuMemcpyHtoDAsync_v2")(
                producer.memory.address(), producer.pinned.data(), each->bytes(), stream) == 0);
      Frame frame = each->at(producer.memory.pointer(), Memory::kDevice);
      frame.stream = stream;
      check_score(*pipeline, *each, frame);
    }
  }
}

TEST(frame_that_is_not_there) {
  const Environment two("AGP_EDGE_FAKE_CUDA_DEVICES", "2");
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  check_score(*pipeline, picture(), picture().frame());

  Producer elsewhere(picture().bytes(), 1);
  Frame frame = elsewhere.send(picture());
  CHECK_THROWS(
      pipeline->score(frame, kDecision), FrameError,
      "the frame is in the memory of GPU 1 and the detector works on GPU 0: copy it there");
  frame.device = 0;
  CHECK_THROWS(pipeline->score(frame, kDecision), FrameError, "in the memory of GPU 1");
  frame.device = -1;  // the driver knows
  CHECK_THROWS(pipeline->score(frame, kDecision), FrameError, "in the memory of GPU 1");
  elsewhere.wait();

  CHECK_THROWS(pipeline->score(picture().at(picture().frame().data, Memory::kDevice), kDecision),
               FrameError, "the CUDA driver does not know");
  std::optional<Producer> gone(picture().bytes());
  frame = gone->send(picture());
  gone->wait();
  frame.stream = nullptr;
  check_score(*pipeline, picture(), frame);
  gone.reset();  // a producer that frees early
  CHECK_THROWS(pipeline->score(frame, kDecision), FrameError, "keep the frame's memory until");

  Producer producer(picture().bytes());
  frame = producer.send(picture());
  frame.height += 1;  // its end lies behind the allocation
  CHECK_THROWS(pipeline->score(frame, kDecision), FrameError, "check its size and row pitch");
  producer.wait();
  check_score(*pipeline, picture(), picture().frame());
}

TEST(stream_of_nobody) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kDevice);
  Producer producer(picture().bytes());
  const Frame frame = producer.send(picture());
  {
    const fake_cuda::Failing failing("cuEventRecord", 1);
    CHECK_THROWS(pipeline->score(frame, kDecision), FrameError,
                 "cannot be waited for (CUDA_ERROR_");
  }
  check_score(*pipeline, picture(), frame);
}

TEST(host_engine_refuses_device_frames) {
  BlockMean mean;
  const auto pipeline = pipeline_of(mean, Memory::kHost);
  Producer producer(picture().bytes());
  const Frame frame = producer.send(picture());
  producer.wait();
  CHECK_THROWS(pipeline->score(frame, kDecision), FrameError,
               "the frame is in the memory of GPU 0, and the frames of block mean are read by the "
               "CPU: copy it to host memory, or open a plan");
}

}  // namespace

CHECK_MAIN()
