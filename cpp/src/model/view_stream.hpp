// Bytes in memory, read as a stream.
//
// Borrows  the bytes.
#pragma once

#include <istream>
#include <streambuf>
#include <string_view>

namespace agp_edge {

class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view bytes) {
    char* const begin = const_cast<char*>(bytes.data());  // no put area: nothing writes to it
    setg(begin, begin, begin + bytes.size());
  }

 protected:
  pos_type seekoff(off_type offset, std::ios_base::seekdir from,
                   std::ios_base::openmode which) override {
    const off_type base = from == std::ios_base::beg   ? 0
                          : from == std::ios_base::cur ? gptr() - eback()
                                                       : egptr() - eback();
    return seekpos(base + offset, which);
  }

  pos_type seekpos(pos_type position, std::ios_base::openmode /*which*/) override {
    const off_type at = position;
    if (at < 0 || at > egptr() - eback()) return pos_type(off_type(-1));
    setg(eback(), eback() + at, egptr());
    return position;
  }
};

class ViewStream : private ViewBuffer, public std::istream {
 public:
  explicit ViewStream(std::string_view bytes) : ViewBuffer(bytes), std::istream(this) {}
};

}  // namespace agp_edge
