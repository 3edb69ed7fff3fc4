#include "frame_buffer.hpp"

#include <memory>
#include <utility>

#include "agp_edge/frame_buffer.hpp"
#include "frame.hpp"

namespace agp_edge::bindings {

namespace py = pybind11;

py::array frame_buffer(const Engine& engine, int height, int width, const std::string& format) {
  const PixelFormat named = pixel_format_from(format);
  std::unique_ptr<FrameBuffer> buffer;
  {
    const py::gil_scoped_release release;
    buffer = std::make_unique<FrameBuffer>(engine, height, width, named);
  }
  const ArrayLayout layout = layout_of(buffer->frame());
  std::uint8_t* const data = buffer->data();
  const py::capsule owner(buffer.get(),
                          [](void* memory) { delete static_cast<FrameBuffer*>(memory); });
  static_cast<void>(buffer.release());  // the capsule's now
  return py::array(py::dtype(layout.dtype), layout.shape, data, owner);
}

}  // namespace agp_edge::bindings
