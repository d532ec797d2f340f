# OpenSSL's libcrypto, used for SHA-256 only.
# Defines the imported target farthing::sha256, and LibCrypto_FOUND. Search order: see FarthingFind.cmake.
include("${CMAKE_CURRENT_LIST_DIR}/FarthingFind.cmake")

farthing_find(LibCrypto ROOT LIBCRYPTO_ROOT PACKAGE libssl-dev HEADER openssl/sha.h
              ARCH_HEADER openssl/opensslconf.h LIBRARY crypto)
farthing_finish(LibCrypto farthing::sha256 "OpenSSL's libcrypto"
                LIBCRYPTO_ROOT libssl-dev LibCrypto_LIBRARY LibCrypto_INCLUDE_DIR)

if(LibCrypto_FOUND)
  # The archive uses threads and, before glibc 2.34, libdl.
  find_package(Threads REQUIRED)
  set_property(TARGET farthing::sha256 APPEND PROPERTY INTERFACE_LINK_LIBRARIES Threads::Threads ${CMAKE_DL_LIBS})
endif()
