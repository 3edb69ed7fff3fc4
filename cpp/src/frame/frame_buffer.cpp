#include "agp_edge/frame_buffer.hpp"

#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

#include "agp_edge/error.hpp"
#include "cuda/cuda_driver.hpp"

namespace agp_edge {
namespace {

// Whole pages: what is locked together is nobody else's.
constexpr std::size_t kPage = 4096;

struct Free {
  void operator()(std::uint8_t* memory) const noexcept { std::free(memory); }
};
using Pages = std::unique_ptr<std::uint8_t[], Free>;

Pages pages_of(std::size_t bytes) {
  const std::size_t whole = (bytes + kPage - 1) / kPage * kPage;
  Pages pages(static_cast<std::uint8_t*>(std::aligned_alloc(kPage, whole)));
  if (!pages) {
    throw DeviceError(
        "a frame buffer of " + std::to_string(bytes) +
        " bytes was asked for, and there is not so much memory: ask for a smaller one");
  }
  std::memset(pages.get(), 0, whole);
  return pages;
}

}  // namespace

// The memory is ours and only locked by CUDA: when a broken GPU is reset, the pages stay.
struct FrameBuffer::Impl {
  Frame frame;
  Pages pages;
  std::optional<cuda::PinnedPages> pinned;
};

FrameBuffer::FrameBuffer(const Engine& engine, int height, int width, PixelFormat format)
    : impl_(std::make_unique<Impl>()) {
  Frame& frame = impl_->frame;
  frame.height = height;
  frame.width = width;
  frame.format = format;
  if (width > 0) {
    frame.row_pitch =
        static_cast<std::size_t>(width) * static_cast<std::size_t>(bytes_per_pixel(format));
  }
  frame.validate_geometry();
  impl_->pages = pages_of(frame.bytes());
  frame.data = impl_->pages.get();
  if (engine.memory() == Memory::kDevice) {
    impl_->pinned.emplace(std::make_shared<cuda::Context>(engine.device()), impl_->pages.get(),
                          frame.bytes());
  }
}

FrameBuffer::~FrameBuffer() = default;
FrameBuffer::FrameBuffer(FrameBuffer&&) noexcept = default;
FrameBuffer& FrameBuffer::operator=(FrameBuffer&&) noexcept = default;

std::uint8_t* FrameBuffer::data() noexcept { return impl_->pages.get(); }
const Frame& FrameBuffer::frame() const noexcept { return impl_->frame; }

}  // namespace agp_edge
