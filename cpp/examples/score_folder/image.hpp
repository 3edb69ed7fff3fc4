// An image file in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agp_edge/frame.hpp"

struct Image {
  std::vector<std::uint8_t> pixels;
  int height = 0;
  int width = 0;
  agp_edge::PixelFormat format = agp_edge::PixelFormat::kMono8;

  // Borrows `pixels`.
  agp_edge::Frame frame() const;
};

// Whether read_image() knows this kind of file, by its name.
bool is_image(const std::string& path);

// Binary PGM and PPM of 8 bits; everything else through OpenCV where built with it.
// Throws agp_edge::DataError naming the file.
Image read_image(const std::string& path);
