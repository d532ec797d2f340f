# utf8proc: Unicode normalisation.
# Defines the imported target farthing::utf8proc, and Utf8proc_FOUND. Search order: see FarthingFind.cmake.
include("${CMAKE_CURRENT_LIST_DIR}/FarthingFind.cmake")

farthing_find(Utf8proc ROOT UTF8PROC_ROOT PACKAGE libutf8proc-dev HEADER utf8proc.h LIBRARY utf8proc)
farthing_finish(Utf8proc farthing::utf8proc "utf8proc"
                UTF8PROC_ROOT libutf8proc-dev Utf8proc_LIBRARY Utf8proc_INCLUDE_DIR)
