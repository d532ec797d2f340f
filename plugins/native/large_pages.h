// Memory for weights that a kernel keeps in an order of its own.
#pragma once

#include <cstddef>
#include <memory>

namespace farthing {

// At least `bytes` of zeroed memory, aligned to 64 bytes, on 2 MiB pages where the system gives them: a pass reads all weights
// once, and with 4 KiB pages every 64th line costs a page walk (measured: 8 to 20 % of a decode step). Pieces share chunks;
// a chunk is returned when its last piece is. Thread-safe. Throws std::bad_alloc.
std::shared_ptr<void> large_pages(std::size_t bytes);

// Tells the system that this process needs these bytes no more, if they are pages of a mapped file: they leave its resident
// memory, stay in the page cache, and come back when read. Any other memory is left alone.
void release_file_pages(const void* data, std::size_t bytes);

}  // namespace farthing
