// PNG files (ISO/IEC 15948) without a library, and sheets of several images.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace farthing::drawing {

constexpr std::int64_t kMostPngPixels = std::int64_t{1} << 28;

// A PNG of 8-bit RGB: `rgb` uint8 [height, width, 3]. Of the five filters each row has the one with the smallest sum of differences.
// Throws Error(request) for a size of 0, above 2^28 pixels, or other than rgb's.
std::vector<std::uint8_t> png_of(std::span<const std::uint8_t> rgb, std::int64_t height, std::int64_t width);

// The same into a file, which is whole or not there. Throws Error(request).
void write_png(const std::filesystem::path& path, std::span<const std::uint8_t> rgb, std::int64_t height,
               std::int64_t width);

// uint8 [rows * height, columns * width, 3] of `count` images uint8 [count, height, width, 3], row by row; places left over are white.
// Throws Error(request).
std::vector<std::uint8_t> contact_sheet(std::span<const std::uint8_t> images, std::int64_t count, std::int64_t height,
                                        std::int64_t width, std::int64_t columns);

// Several images as one PNG: a contact sheet of so many columns, 0 = about a square. `images` has 3 * count * height * width bytes, of which
// nothing is read before the sizes are checked. Throws Error(request).
void write_png_sheet(const std::filesystem::path& path, const std::uint8_t* images, std::int64_t count,
                     std::int64_t height, std::int64_t width, std::int64_t columns);

}  // namespace farthing::drawing
