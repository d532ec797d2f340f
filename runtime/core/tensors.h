// The names of every tensor of every graph. farthing/runtime/tensors.py and image_tensors.py hold the same names with shapes and dtypes;
// a test compares them.
#pragma once

#include <string>

namespace farthing::tensors {

inline const std::string kInputIds = "input_ids";    // int64 [B,S]
inline const std::string kPositions = "positions";   // int64 [B,S]; with M-RoPE [3,B,S]
inline const std::string kPastLen = "past_len";      // int64 [B]
inline const std::string kLogitRows = "logit_rows";  // int64 [B,R]
inline const std::string kVisible = "visible";       // int64 [B,S,W]
inline const std::string kLogits = "logits";         // float32 [B,R,V]
inline const std::string kPastK = "past_k.";         // + layer: float32 or int8 [B,Hkv,C,dh]
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
inline const std::string kVisualEmbeds = "visual_embeds";  // float32 [B,N,D]
inline const std::string kKept = "kept";                   // int64 [B,K]
inline const std::string kLateLen = "late_len";            // int64 [B]
inline const std::string kPixels = "pixels";               // uint8 [T,H,W,3]
inline const std::string kFeatures = "features";           // float32 [T,N,dv]
inline const std::string kClsScore = "cls_score";          // float32 [T,N]
inline const std::string kOrder = "order";                 // int64 [L]
inline const std::string kGroup = "group";                 // int64 [1,L]
inline const std::string kTapIndex = "tap_index";          // int64 [L,4]
inline const std::string kTapWeight = "tap_weight";        // float32 [L,4]
inline const std::string kRegions = "regions";             // float32 [T,N]
inline const std::string kVision = "vision";               // names of graphs, or how they begin
inline const std::string kProject = "project";
inline const std::string kVisualStep = "visual_step";
inline const std::string kPerceive = "perceive";
inline const std::string kDelta = "delta_";
inline const std::string kDecoder = "decoder";  // name of the graph
inline const std::string kGam = "gam_lm";

// Of bundles that draw.
inline const std::string kCodes = "codes";     // int64 [B,g*g]; pixels: float32 [B,3,H,W]
inline const std::string kArStep = "ar_step";  // names of graphs, or how they begin
inline const std::string kVqDecode = "vq_decode";
inline const std::string kVqEncode = "vq_encode";
inline const std::string kSample = "sample";
inline const std::string kAccept = "accept_";
inline const std::string kDraftStep = "draft_step";
inline const std::string kCondition = "condition";
inline const std::string kArPrefill = "ar_prefill";
inline const std::string kBelowLogits = "below_logits";  // float32 [B,R,V]
inline const std::string kFeaturesOut = "features_out";  // float32 [B,S,D]; features: the same
inline const std::string kTextEmbeds = "text_embeds";    // float32 [B,T,dc]
inline const std::string kEmbeds = "embeds";             // float32 [B,T,D]; uncond_embeds: the same
inline const std::string kUncondEmbeds = "uncond_embeds";
inline const std::string kCond = "cond";  // float32 [B,M,V]
inline const std::string kUncond = "uncond";
inline const std::string kScale = "scale";              // float32 [B]
inline const std::string kUniforms = "uniforms";        // float32 [B,M] or [L+1]
inline const std::string kTemperature = "temperature";  // float32 [1]
inline const std::string kTopK = "top_k";               // int64 [1]
inline const std::string kTopP = "top_p";               // float32 [1]
inline const std::string kIds = "ids";                  // int64 [B,M]
inline const std::string kProbs = "probs";              // float32 [B,M,V]
inline const std::string kP = "p";                      // float32 [L+1,V]
inline const std::string kQ = "q";                      // float32 [L,V]; draft: int64 [L]
inline const std::string kAccepted = "accepted";        // int64 [1]
inline const std::string kNext = "next";                // int64 [1]
inline const std::string kChance = "chance";            // float32 [L]

}  // namespace farthing::tensors
