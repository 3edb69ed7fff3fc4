#include "preprocess/preprocess_recipe.hpp"

#include <cmath>
#include <string>

#include "agp_edge/error.hpp"

namespace agp_edge {
namespace {

std::string describe(const Rect& rect) {
  return "(x " + std::to_string(rect.x) + ", y " + std::to_string(rect.y) + ", " +
         std::to_string(rect.width) + " x " + std::to_string(rect.height) + ")";
}

}  // namespace

const char* to_string(ResizeRule rule) noexcept {
  return rule == ResizeRule::kArea ? "area" : "antialias";
}

ResizeRule resize_rule_from(const std::string& name) {
  for (ResizeRule rule : {ResizeRule::kAntialias, ResizeRule::kArea}) {
    if (name == to_string(rule)) return rule;
  }
  throw ModelError("the resize rule is \"" + name + "\"; expected \"antialias\" or \"area\"");
}

const char* to_string(ChannelOrder order) noexcept {
  return order == ChannelOrder::kBgr ? "bgr" : "rgb";
}

ChannelOrder channel_order_from(const std::string& name) {
  for (ChannelOrder order : {ChannelOrder::kRgb, ChannelOrder::kBgr}) {
    if (name == to_string(order)) return order;
  }
  throw ModelError("the channel order is \"" + name + "\"; expected \"rgb\" or \"bgr\"");
}

void check(const PreprocessRecipe& recipe) {
  if (recipe.height <= 0 || recipe.width <= 0) {
    throw ModelError("the model's input is " + std::to_string(recipe.width) + " x " +
                     std::to_string(recipe.height) +
                     " pixels; expected both sides to be at least 1: export the model again");
  }
  for (int c = 0; c < 3; ++c) {
    if (!std::isfinite(recipe.mean[c]) || !std::isfinite(recipe.stddev[c]) ||
        recipe.stddev[c] <= 0) {
      throw ModelError("the model's input channel " + std::to_string(c) + " has mean " +
                       std::to_string(recipe.mean[c]) + " and standard deviation " +
                       std::to_string(recipe.stddev[c]) +
                       "; expected finite values and a deviation above 0: export the model again");
    }
  }
  const Rect& roi = recipe.roi;
  if (roi.empty() && (roi.x != 0 || roi.y != 0 || roi.width != 0 || roi.height != 0)) {
    throw FrameError("the region of interest " + describe(roi) +
                     " is empty; expected a width and a height of at least 1, or no region at all");
  }
}

Rect view_of(const PreprocessRecipe& recipe, const Frame& frame) {
  Rect region = recipe.roi;
  if (region.empty()) {
    region = Rect{0, 0, frame.width, frame.height};
  } else if (region.x < 0 || region.y < 0 || region.width > frame.width - region.x ||
             region.height > frame.height - region.y) {
    throw FrameError("the region of interest " + describe(region) +
                     " does not lie inside the frame of " + std::to_string(frame.width) + " x " +
                     std::to_string(frame.height) +
                     " pixels: give a region for this camera's image size");
  }
  return region;
}

}  // namespace agp_edge
