# include() this to get every native dependency as an imported target:
#   farthing::onnxruntime_headers  farthing::pcre2  farthing::utf8proc  farthing::nlohmann_json  farthing::sha256
# With FARTHING_FETCH_DEPS (on by default) what the system lacks is first downloaded from the machine's own apt mirror;
# nothing is fetched twice, and nothing at all when everything is there. Turn it off to build strictly offline.
include_guard(GLOBAL)
list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
option(FARTHING_FETCH_DEPS "Fetch missing headers and static libraries from the machine's apt mirror" ON)

set(_farthing_dependencies OnnxRuntimeHeaders Pcre2 Utf8proc NlohmannJson LibCrypto)
set(_farthing_missing)
foreach(_name IN LISTS _farthing_dependencies)
  find_package(${_name} QUIET MODULE)
  if(NOT ${_name}_FOUND)
    list(APPEND _farthing_missing ${_name})
  endif()
endforeach()

if(_farthing_missing AND FARTHING_FETCH_DEPS)
  find_package(Python3 3.10 QUIET COMPONENTS Interpreter)
  if(Python3_FOUND)
    set(_fetch "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/fetch_headers.py" --build-dir "${CMAKE_BINARY_DIR}")
    if(CMAKE_CROSSCOMPILING AND CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
      list(APPEND _fetch --arch arm64)
    endif()
    execute_process(COMMAND ${_fetch} RESULT_VARIABLE _status)
    if(_status)
      message(WARNING "fetching the native dependencies failed (see above); looking on without them")
    endif()
  endif()
endif()

foreach(_name IN LISTS _farthing_dependencies)
  find_package(${_name} REQUIRED MODULE)
endforeach()
