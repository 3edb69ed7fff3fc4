// Opening the driver: missing, foreign, not starting, and started in the end.
#include <cstdlib>
#include <string>

#include "agp_edge/error.hpp"
#include "check.hpp"
#include "cuda/cuda_driver.hpp"
#include "fakes/fake_cuda.hpp"

namespace {

using namespace agp_edge;

// In one test: a driver that was opened stays open.
TEST(driver_is_asked_again_until_it_opens) {
  const std::string fake = std::getenv("AGP_EDGE_CUDA_DRIVER");
  setenv("AGP_EDGE_CUDA_DRIVER", "/nonexistent/libcuda.so.1", 1);
  CHECK_THROWS(cuda::Driver::open(), DeviceError,
               "the driver's library /nonexistent/libcuda.so.1 was not found");
  setenv("AGP_EDGE_CUDA_DRIVER", "libm.so.6", 1);
  CHECK_THROWS(cuda::Driver::open(), DeviceError, "libm.so.6 has no cuInit");
  setenv("AGP_EDGE_CUDA_DRIVER", fake.c_str(), 1);
  {
    const fake_cuda::Failing failing("cuInit", 1);
    CHECK_THROWS(cuda::Driver::open(), DeviceError, "CUDA_ERROR_NO_DEVICE");
  }
  CHECK(cuda::Driver::open().version == 12060);
  CHECK(cuda::device_at(0).text() == "Fake GPU 0 (SM 8.7, driver for CUDA 12.6)");
  CHECK(!cuda::device_at(0).integrated);
  CHECK(fake_cuda::live() == 0);
}

}  // namespace

CHECK_MAIN()
