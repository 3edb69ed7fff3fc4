#include "model/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

[[noreturn]] void fail(const std::string& path, int code) {
  throw ModelError("the model '" + path + "' cannot be read (" + std::strerror(code) +
                   "): check the path and its permissions");
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path, errno);
  struct stat status{};
  int code = fstat(file, &status) == 0 ? 0 : errno;
  if (code == 0 && status.st_size == 0) code = ENODATA;
  if (code == 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (data_ == MAP_FAILED) code = errno;
  }
  close(file);  // the mapping keeps it
  if (code != 0) fail(path, code);
}

MappedFile::~MappedFile() { munmap(data_, size_); }

}  // namespace agp_edge
