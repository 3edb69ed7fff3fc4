#include "image.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>

#include "agp_edge/error.hpp"
#ifdef SCORE_FOLDER_OPENCV
#include <opencv2/imgcodecs.hpp>
#endif

namespace {

constexpr int kMaxSide = 1 << 16;

std::string suffix(const std::string& path) {
  std::string text = std::filesystem::path(path).extension().string();
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool is_netpbm(const std::string& path) {
  const std::string text = suffix(path);
  return text == ".pgm" || text == ".ppm" || text == ".pnm";
}

// The next number of a header; '#' starts a comment to the end of its line.
int header_number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#') file.ignore(1 << 16, '\n');
  int number = 0;
  return file >> number ? number : 0;
}

// https://netpbm.sourceforge.net/doc/ppm.html: P5 is grey, P6 is RGB, both binary.
Image read_netpbm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw agp_edge::DataError("the image '" + path + "' cannot be opened");
  char magic[2] = {};
  file.read(magic, 2);
  const bool is_colour = magic[1] == '6';
  Image image;
  image.width = header_number(file);
  image.height = header_number(file);
  const int largest = header_number(file);
  file.get();  // the one blank before the pixels
  if (magic[0] != 'P' || (magic[1] != '5' && !is_colour) || largest != 255 || image.width < 1 ||
      image.height < 1 || image.width > kMaxSide || image.height > kMaxSide) {
    throw agp_edge::DataError("the image '" + path +
                              "' is not a binary PGM (P5) or PPM (P6) of 8 bits");
  }
  image.format = is_colour ? agp_edge::PixelFormat::kRgb8 : agp_edge::PixelFormat::kMono8;
  image.pixels.resize(static_cast<std::size_t>(image.height) *
                      static_cast<std::size_t>(image.width) * (is_colour ? 3U : 1U));
  file.read(reinterpret_cast<char*>(image.pixels.data()),
            static_cast<std::streamsize>(image.pixels.size()));
  if (file.gcount() != static_cast<std::streamsize>(image.pixels.size())) {
    throw agp_edge::DataError("the image '" + path + "' is cut off: it holds fewer pixels than " +
                              std::to_string(image.width) + " x " + std::to_string(image.height));
  }
  return image;
}

#ifdef SCORE_FOLDER_OPENCV
Image read_with_opencv(const std::string& path) {
  const cv::Mat mat = cv::imread(path, cv::IMREAD_COLOR);
  if (mat.empty()) throw agp_edge::DataError("the image '" + path + "' cannot be read");
  const cv::Mat packed = mat.isContinuous() ? mat : mat.clone();
  return {{packed.data, packed.data + packed.total() * packed.elemSize()},
          packed.rows,
          packed.cols,
          agp_edge::PixelFormat::kBgr8};
}
#endif

}  // namespace

agp_edge::Frame Image::frame() const {
  const auto row = static_cast<std::size_t>(width * agp_edge::bytes_per_pixel(format));
  return {pixels.data(), height, width, row, format};
}

bool is_image(const std::string& path) {
#ifdef SCORE_FOLDER_OPENCV
  return is_netpbm(path) || cv::haveImageReader(path);
#else
  return is_netpbm(path);
#endif
}

Image read_image(const std::string& path) {
#ifdef SCORE_FOLDER_OPENCV
  if (!is_netpbm(path)) return read_with_opencv(path);
#endif
  return read_netpbm(path);
}
