// Frames in device memory, and frame buffers, on the fake driver: whose stream is waited for, what
// is refused, what is copied.
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "agp_edge/error.hpp"
#include "agp_edge/frame_buffer.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "cuda_pipeline.hpp"

namespace {

using namespace cuda_pipeline;

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

// Page-locked for a desktop GPU and uploaded from there; read where it is by an integrated one.
TEST(frame_buffer_is_scored_without_a_copy_by_the_cpu) {
  for (const char* integrated : {"0", "1"}) {
    const Environment kind("AGP_EDGE_FAKE_CUDA_INTEGRATED", integrated);
    const bool is_integrated = *integrated == '1';
    {
      BlockMean mean;
      const auto engine = engine_of(mean, Memory::kDevice);
      const Recipes recipes;
      Pipeline pipeline(engine, recipes.preprocess, recipes.postprocess);
      const Picture tight(40, 48, PixelFormat::kBgr8, 1);
      fake_cuda::forget_calls();
      FrameBuffer buffers[] = {{*engine, 40, 48, PixelFormat::kBgr8},
                               {*engine, 40, 48, PixelFormat::kBgr8}};
      CHECK(fake_cuda::calls("cuMemHostRegister_v2") == 2);
      for (int i = 0; i < 6; ++i) {
        FrameBuffer& buffer = buffers[i / 2 % 2];
        std::memcpy(buffer.data(), tight.frame().data, tight.bytes());
        fake_cuda::forget_calls();
        check_score(pipeline, tight, buffer.frame());
        if (i < 2) continue;  // in order, recorded, replayed: the other buffer's turn is an update
        CHECK(fake_cuda::calls("cuGraphLaunch") == 1);
        CHECK(fake_cuda::calls("cuGraphExecMemcpyNodeSetParams") ==
              (i % 2 == 0 && !is_integrated ? 1 : 0));
        CHECK(fake_cuda::calls("cuGraphExecKernelNodeSetParams_v2") ==
              (i % 2 == 0 && is_integrated ? 1 : 0));
      }
    }
    CHECK(fake_cuda::live() == 0);  // unlocked again, before its pages are freed
  }
}

TEST(frame_buffer_outlives_pipeline_and_engine) {
  BlockMean mean;
  std::optional<FrameBuffer> buffer;
  {
    const auto engine = engine_of(mean, Memory::kDevice);
    buffer.emplace(*engine, 40, 48, PixelFormat::kMono8);
  }
  std::memset(buffer->data(), 7, buffer->frame().bytes());
  const auto pipeline = pipeline_of(mean, Memory::kDevice);  // of another engine on that GPU
  Frame plain = buffer->frame();
  const std::vector<std::uint8_t> pixels(plain.bytes(), 7);
  plain.data = pixels.data();
  CHECK_NEAR(pipeline->score(buffer->frame(), kDecision).score, expected_score(plain), 1e-3);
  {
    const fake_cuda::Failing failing("cuMemHostRegister_v2", 1);
    CHECK_THROWS(FrameBuffer(pipeline->engine(), 40, 48, PixelFormat::kMono8), DeviceError,
                 "page-locking 1920 bytes for the GPU failed with CUDA_ERROR_OUT_OF_MEMORY");
  }
  buffer.reset();
  CHECK(pipeline->score(plain, kDecision).score > -100);
}

// The GPU is reset after an error: the buffer's pages stay, and are staged as any memory is.
TEST(frame_buffer_of_a_gpu_that_was_reset) {
  {
    BlockMean mean;
    auto broken = pipeline_of(mean, Memory::kDevice);
    FrameBuffer buffer(broken->engine(), 40, 48, PixelFormat::kMono8);
    std::memset(buffer.data(), 90, buffer.frame().bytes());
    const float expected = broken->score(buffer.frame(), kDecision).score;
    {
      const fake_cuda::Failing failing("cuEventQuery", 1, true);
      CHECK_THROWS(broken->score(buffer.frame(), kDecision), DeviceError, "ILLEGAL_ADDRESS");
    }
    BlockMean other;
    const auto fresh = pipeline_of(other, Memory::kDevice);
    CHECK_NEAR(fresh->score(buffer.frame(), kDecision).score, expected, 1e-3);
  }
  CHECK(fake_cuda::live() == 0);
}

}  // namespace

CHECK_MAIN()
