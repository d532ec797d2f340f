// The names of every tensor of every graph. farthing/runtime/tensors.py holds the same names with shapes and dtypes; a test
// compares the two.
#pragma once

#include <string>

namespace farthing::tensors {

inline const std::string kInputIds = "input_ids";    // int64 [B,S]
inline const std::string kPositions = "positions";   // int64 [B,S]
inline const std::string kPastLen = "past_len";      // int64 [B]
inline const std::string kLogitRows = "logit_rows";  // int64 [B,R]
inline const std::string kVisible = "visible";       // int64 [B,S,W]
inline const std::string kLogits = "logits";         // float32 [B,R,V]
inline const std::string kPastK = "past_k.";         // + layer: float32 [B,Hkv,C,dh]
inline const std::string kPastV = "past_v.";
inline const std::string kPresentK = "present_k.";
inline const std::string kPresentV = "present_v.";
inline const std::string kConvState = "conv_state.";     // + layer: float32 [B,k-1,D]
inline const std::string kConvWindow = "conv_window.";   // float32 [B,k-1+S,D]
inline const std::string kJudge = "judge";               // float32 [B,R]
inline const std::string kMaskRows = "mask_rows";        // int64 [M]
inline const std::string kMaskHidden = "mask_hidden";    // float32 [B,M,D]
inline const std::string kFirstToken = "first_token";    // int64 [B]
inline const std::string kMaskLatents = "mask_latents";  // float32 [B,k,D]
inline const std::string kDraft = "draft";               // int64 [B,k]
inline const std::string kDraftChance = "draft_chance";  // float32 [B,k]
inline const std::string kMtpStep = "mtp_step";          // names of graphs
inline const std::string kMtpDraftChain = "mtp_draft_chain";
inline const std::string kRowLatents = "row_latents";  // float32 [B,R,L], [B,L]
inline const std::string kFtpStep = "ftp_step";
inline const std::string kFtpDraftChain = "ftp_draft_chain";
inline const std::string kDecoder = "decoder";  // name of the graph
inline const std::string kGam = "gam_lm";

}  // namespace farthing::tensors
