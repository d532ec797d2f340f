# PCRE2 with 8-bit code units: the regular expressions of tokenizer.json.
# Defines the imported target farthing::pcre2, and Pcre2_FOUND. Search order: see FarthingFind.cmake.
include("${CMAKE_CURRENT_LIST_DIR}/FarthingFind.cmake")

farthing_find(Pcre2 ROOT PCRE2_ROOT PACKAGE libpcre2-dev HEADER pcre2.h LIBRARY pcre2-8)
farthing_finish(Pcre2 farthing::pcre2 "PCRE2 (8 bit)"
                PCRE2_ROOT libpcre2-dev Pcre2_LIBRARY Pcre2_INCLUDE_DIR)
