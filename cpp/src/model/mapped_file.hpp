// A file's bytes, read by the kernel as they are used.
//
// Owns     the mapping.
// Threads  read-only, any.
#pragma once

#include <cstddef>
#include <string>

namespace agp_edge {

class MappedFile {
 public:
  // Throws ModelError: missing, unreadable or empty.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace agp_edge
