# nlohmann/json, header only.
# Defines the imported target farthing::nlohmann_json, and NlohmannJson_FOUND. Search order: see FarthingFind.cmake.
include("${CMAKE_CURRENT_LIST_DIR}/FarthingFind.cmake")

farthing_find(NlohmannJson ROOT NLOHMANNJSON_ROOT PACKAGE nlohmann-json3-dev HEADER nlohmann/json.hpp)
farthing_finish(NlohmannJson farthing::nlohmann_json "nlohmann/json"
                NLOHMANNJSON_ROOT nlohmann-json3-dev NlohmannJson_INCLUDE_DIR)
