#include "png.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "deflate.h"
#include "error.h"

namespace farthing::drawing {
namespace {

constexpr std::size_t kChannels = 3;

constexpr auto kCrc = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  return table;
}();

void put_number(std::vector<std::uint8_t>& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(value >> shift));
}

void put_chunk(std::vector<std::uint8_t>& out, std::string_view type, std::span<const std::uint8_t> data) {
  put_number(out, static_cast<std::uint32_t>(data.size()));
  const std::size_t begin = out.size();
  out.insert(out.end(), type.begin(), type.end());
  out.insert(out.end(), data.begin(), data.end());
  std::uint32_t crc = ~0u;
  for (std::size_t i = begin; i < out.size(); ++i) crc = kCrc[(crc ^ out[i]) & 0xFF] ^ (crc >> 8);
  put_number(out, ~crc);
}

std::uint8_t paeth(int left, int up, int corner) {
  const int guess = left + up - corner;
  const int a = std::abs(guess - left), b = std::abs(guess - up), c = std::abs(guess - corner);
  return static_cast<std::uint8_t>(a <= b && a <= c ? left : b <= c ? up : corner);
}

// Row `row` filtered by `filter` (0 to 4) into out; the row above the first is zeros. Returns the sum of |differences|, as signed bytes.
std::uint64_t filtered(int filter, std::span<const std::uint8_t> row, std::span<const std::uint8_t> above,
                       std::uint8_t* out) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const int left = i < kChannels ? 0 : row[i - kChannels], up = above[i];
    const int corner = i < kChannels ? 0 : above[i - kChannels];
    const int guess = filter == 0   ? 0
                      : filter == 1 ? left
                      : filter == 2 ? up
                      : filter == 3 ? (left + up) / 2
                                    : paeth(left, up, corner);
    out[i] = static_cast<std::uint8_t>(row[i] - guess);
    sum += static_cast<std::uint64_t>(std::abs(static_cast<int>(static_cast<std::int8_t>(out[i]))));
  }
  return sum;
}

void check_size(std::int64_t count, std::int64_t height, std::int64_t width) {
  if (count >= 1 && height >= 1 && width >= 1 && height <= kMostPngPixels / width &&
      count <= kMostPngPixels / (height * width)) {
    return;
  }
  refuse(Status::request, "size of the picture",
         std::to_string(count) + " x " + std::to_string(height) + " x " + std::to_string(width),
         "1 to " + std::to_string(kMostPngPixels) + " pixels", "write smaller pictures");
}

void check_size(std::size_t bytes, std::int64_t count, std::int64_t height, std::int64_t width) {
  check_size(count, height, width);
  const auto wanted = kChannels * static_cast<std::size_t>(count * height * width);
  if (bytes == wanted) return;
  refuse(Status::request, "pixels of the picture", std::to_string(bytes) + " bytes", std::to_string(wanted),
         "pass red, green and blue of each pixel");
}

}  // namespace

std::vector<std::uint8_t> png_of(std::span<const std::uint8_t> rgb, std::int64_t height, std::int64_t width) {
  check_size(rgb.size(), 1, height, width);
  const std::size_t bytes = kChannels * static_cast<std::size_t>(width);
  std::vector<std::uint8_t> all, best(bytes), tried(bytes);
  all.reserve((bytes + 1) * static_cast<std::size_t>(height));
  std::vector<std::uint8_t> nothing(bytes, 0);
  std::span<const std::uint8_t> above = nothing;
  for (std::int64_t y = 0; y < height; ++y) {
    const auto row = rgb.subspan(static_cast<std::size_t>(y) * bytes, bytes);
    int chosen = 0;
    std::uint64_t least = filtered(0, row, above, best.data());
    for (int filter = 1; filter <= 4; ++filter) {
      const std::uint64_t sum = filtered(filter, row, above, tried.data());
      if (sum >= least) continue;
      least = sum;
      chosen = filter;
      best.swap(tried);
    }
    all.push_back(static_cast<std::uint8_t>(chosen));
    all.insert(all.end(), best.begin(), best.end());
    above = row;
  }
  std::vector<std::uint8_t> out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'}, header;
  put_number(header, static_cast<std::uint32_t>(width));
  put_number(header, static_cast<std::uint32_t>(height));
  header.insert(header.end(), {8, 2, 0, 0, 0});  // bits a channel, RGB, deflate, the five filters, not interlaced
  put_chunk(out, "IHDR", header);
  put_chunk(out, "IDAT", zlib_of(all));
  put_chunk(out, "IEND", {});
  return out;
}

void write_png(const std::filesystem::path& path, std::span<const std::uint8_t> rgb, std::int64_t height,
               std::int64_t width) {
  const std::vector<std::uint8_t> bytes = png_of(rgb, height, width);
  const std::filesystem::path part = path.string() + ".part";
  std::error_code failed;
  {
    std::ofstream file(part, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (file) std::filesystem::rename(part, path, failed);
    if (file && !failed) return;
  }
  std::error_code ignored;
  std::filesystem::remove(part, ignored);
  refuse(Status::request, "file " + path.string(), failed ? "not writable (" + failed.message() + ")" : "not writable",
         "a place for a PNG", "make the folder, or choose another");
}

std::vector<std::uint8_t> contact_sheet(std::span<const std::uint8_t> images, std::int64_t count, std::int64_t height,
                                        std::int64_t width, std::int64_t columns) {
  check_size(images.size(), count, height, width);
  if (columns < 1 || columns > kMostPngPixels) {
    refuse(Status::request, "columns", std::to_string(columns), "1 or more", "choose another number");
  }
  const std::int64_t rows = (count + columns - 1) / columns;
  if (rows * columns > kMostPngPixels / (height * width)) {
    refuse(Status::request, "sheet", std::to_string(rows) + " x " + std::to_string(columns) + " images",
           "at most " + std::to_string(kMostPngPixels) + " pixels", "put fewer images on it");
  }
  const std::size_t line = kChannels * static_cast<std::size_t>(width);
  std::vector<std::uint8_t> sheet(line * static_cast<std::size_t>(rows * columns * height), 255);
  for (std::int64_t image = 0; image < count; ++image) {
    for (std::int64_t y = 0; y < height; ++y) {
      const auto from = images.subspan(static_cast<std::size_t>(image * height + y) * line, line);
      const std::int64_t to = ((image / columns) * height + y) * columns + image % columns;
      std::copy(from.begin(), from.end(),
                sheet.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(to) * line));
    }
  }
  return sheet;
}

void write_png_sheet(const std::filesystem::path& path, const std::uint8_t* images, std::int64_t count,
                     std::int64_t height, std::int64_t width, std::int64_t columns) {
  check_size(count, height, width);
  const std::span all{images, kChannels * static_cast<std::size_t>(count * height * width)};
  if (columns == 0) columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  if (columns == 1) return write_png(path, all, count * height, width);
  const std::vector<std::uint8_t> sheet = contact_sheet(all, count, height, width, columns);
  write_png(path, sheet, (count + columns - 1) / columns * height, columns * width);
}

}  // namespace farthing::drawing
