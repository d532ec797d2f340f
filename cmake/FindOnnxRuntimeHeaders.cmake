# The C and C++ headers of ONNX Runtime. The library itself is loaded with dlopen at run time: none is linked.
# Defines the imported target farthing::onnxruntime_headers, and OnnxRuntimeHeaders_FOUND.
# Search order: see FarthingFind.cmake.
include("${CMAKE_CURRENT_LIST_DIR}/FarthingFind.cmake")

farthing_find(OnnxRuntimeHeaders ROOT ONNXRUNTIME_ROOT PACKAGE libonnxruntime-dev HEADER onnxruntime_c_api.h
              SUFFIXES onnxruntime onnxruntime/core/session)
farthing_finish(OnnxRuntimeHeaders farthing::onnxruntime_headers "ONNX Runtime's headers"
                ONNXRUNTIME_ROOT libonnxruntime-dev OnnxRuntimeHeaders_INCLUDE_DIR)
