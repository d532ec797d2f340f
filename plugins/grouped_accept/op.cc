// ONNX Runtime face of farthing::GroupedAccept.
#include <cmath>
#include <cstdint>
#include <utility>

#include "../native/ort_op.h"
#include "../native/scratch.h"
#include "kernel.h"

namespace farthing {
namespace {

constexpr const char* kOp = "GroupedAccept";

std::string text(std::int64_t n) { return std::to_string(n); }

AcceptMode mode_of(const std::string& name) {
  if (name == "exact") return AcceptMode::exact;
  if (name == "grouped") return AcceptMode::grouped;
  if (name == "partition") return AcceptMode::partition;
  if (name == "neighbourhood") return AcceptMode::neighbourhood;
  ort::refuse(kOp, "mode", "'" + name + "'", "exact or grouped or partition or neighbourhood", "choose one of them");
}

struct GroupedAcceptKernel : ort::Kernel<GroupedAcceptKernel> {
  explicit GroupedAcceptKernel(const OrtKernelInfo* info)
      : name(ort::string_attribute(info, "mode")),
        mode(mode_of(name)),
        group_size(ort::int_attribute(info, "group_size", 14)),
        prob_tol(ort::float_attribute(info, "prob_tol", 0.15f)),
        dist_tol(ort::float_attribute(info, "dist_tol", 0.5f)),
        delta(ort::float_attribute(info, "delta", 0.1f)),
        relative(ort::int_attribute(info, "relative", 0)) {
    if (group_size < 1) ort::refuse(kOp, "group_size", text(group_size), "1 or more", "1 is the exact rule");
    for (const auto& [what, tolerance] : {std::pair{"prob_tol", prob_tol}, std::pair{"dist_tol", dist_tol}}) {
      if (!(tolerance >= 0.0f)) {
        ort::refuse(kOp, what, std::to_string(tolerance), "0 or more", "0 keeps the draft alone in its group");
      }
    }
    if (relative != 0 && relative != 1) {
      ort::refuse(kOp, "relative", text(relative), "0 or 1",
                  "1 measures delta in units of the draft's own probability");
    }
    if (!(delta >= 0.0f && std::isfinite(delta))) {
      ort::refuse(kOp, "delta", std::to_string(delta), "0 or more and finite", "0 is the exact rule");
    }
    if (!relative && delta >= 1.0f) {
      ort::refuse(kOp, "delta", std::to_string(delta), "below 1",
                  "1 accepts every draft; for a multiple of p(x) set relative to 1");
    }
    // A table that cannot change is looked at once.
    const ort::View table = ort::constant_input(info, 5);
    if (!table.data || table.rank != 2) return;
    check_entries(table);
    constant = table.data;
  }

  void compute(OrtKernelContext* context) {
    const ort::View p = ort::input(context, 0), q = ort::input(context, 1), draft = ort::input(context, 2),
                    uniforms = ort::input(context, 3), embeds = ort::input(context, 4), table = ort::input(context, 5);
    check_shapes(p, q, draft, uniforms, embeds, table);
    check_values(draft, uniforms, q.dim(1));
    if (table.data && table.data != constant) check_entries(table);
    const auto size = [](std::int64_t v) { return static_cast<std::size_t>(v); };
    const std::size_t length = size(q.dim(0)), codes = size(q.dim(1));
    const std::int64_t one[] = {1}, many[] = {q.dim(0)};
    auto* accepted = static_cast<std::int64_t*>(ort::output(context, 0, one));
    auto* next = static_cast<std::int64_t*>(ort::output(context, 1, one));
    auto* chance = static_cast<float*>(ort::output(context, 2, many));
    // The results need a place even when nobody asks for them.
    std::int64_t unasked[2];
    static const auto kernel = FARTHING_SELECT(grouped_accept);
    static const auto bytes = FARTHING_SELECT(grouped_accept_scratch);
    const std::size_t needed = (bytes(length, codes, mode, size(group_size)) + 63) / 64 * 64;
    std::byte* memory = scratch<GroupedAcceptKernel>(needed + length * sizeof(float));
    if (!chance) chance = reinterpret_cast<float*>(memory + needed);
    kernel({p.as<float>(),
            q.as<float>(),
            draft.as<std::int64_t>(),
            uniforms.as<float>(),
            embeds.as<float>(),
            table.as<std::int64_t>(),
            accepted ? accepted : unasked,
            next ? next : unasked + 1,
            chance,
            length,
            codes,
            embeds.data ? size(embeds.dim(1)) : 0,
            table.data ? size(table.dim(1)) : 0,
            mode,
            size(group_size),
            prob_tol,
            dist_tol,
            delta,
            relative == 1,
            memory},
           ort::threads(context));
  }

  void check_shapes(const ort::View& p, const ort::View& q, const ort::View& draft, const ort::View& uniforms,
                    const ort::View& embeds, const ort::View& table) const {
    const bool tabled = mode == AcceptMode::partition || mode == AcceptMode::neighbourhood;
    if (tabled && !table.data) {
      ort::refuse(kOp, "table", "absent", "present in mode " + name,
                  mode == AcceptMode::partition ? "connect the cluster of each code"
                                                : "connect the nearest codes of each code");
    }
    if (!tabled && table.data) {
      ort::refuse(kOp, "table", "present", "absent in mode " + name, "drop it, or choose partition or neighbourhood");
    }
    if (q.rank != 2 || q.dim(0) < 1 || q.dim(1) < 1) {
      ort::refuse(kOp, "q", q.shape(), "[L,V] with L >= 1 and V >= 1", "give one distribution a draft");
    }
    if (q.dim(1) > INT32_MAX) ort::refuse(kOp, "q", q.shape(), "below 2^31 codes", "check what is connected");
    const std::string rows = text(q.dim(0)), more = text(q.dim(0) + 1), codes = text(q.dim(1));
    if (p.rank != 2 || p.dim(0) != q.dim(0) + 1 || p.dim(1) != q.dim(1)) {
      ort::refuse(kOp, "p", p.shape(), "[" + more + "," + codes + "]",
                  "one row more than q: behind the last draft comes one code more");
    }
    if (draft.rank != 1 || draft.dim(0) != q.dim(0)) {
      ort::refuse(kOp, "draft", draft.shape(), "[" + rows + "]", "give one code a row of q");
    }
    if (uniforms.rank != 1 || uniforms.dim(0) != q.dim(0) + 1) {
      ort::refuse(kOp, "uniforms", uniforms.shape(), "[" + more + "]", "give one a draft, and one for the next code");
    }
    if (embeds.data && (embeds.rank != 2 || embeds.dim(0) != q.dim(1))) {
      ort::refuse(kOp, "embeds", embeds.shape(), "[" + codes + ",E]", "give one row a code");
    }
    if (!table.data) return;
    const std::int64_t most = mode == AcceptMode::partition ? 1 : q.dim(1) - 1;
    if (table.rank != 2 || table.dim(0) != q.dim(1) || table.dim(1) < 1 || table.dim(1) > most) {
      ort::refuse(
          kOp, "table", table.shape(),
          mode == AcceptMode::partition ? "[" + codes + ",1]" : "[" + codes + ",K] with K from 1 to " + text(most),
          "see mode " + name);
    }
  }

  static void check_values(const ort::View& draft, const ort::View& uniforms, std::int64_t codes) {
    for (std::int64_t i = 0; i < draft.dim(0); ++i) {
      const std::int64_t code = draft.as<std::int64_t>()[i];
      if (code < 0 || code >= codes) {
        ort::refuse(kOp, "draft[" + text(i) + "]", text(code), "0 to " + text(codes - 1), "check what is connected");
      }
    }
    for (std::int64_t i = 0; i < uniforms.dim(0); ++i) {
      const float u = uniforms.as<float>()[i];
      if (!(u >= 0.0f && u < 1.0f)) {
        ort::refuse(kOp, "uniforms[" + text(i) + "]", std::to_string(u), "0 or more and below 1",
                    "check what is connected");
      }
    }
  }

  // Of a table [V,K]: V must be the number of codes, which check_shapes() sees to.
  static void check_entries(const ort::View& table) {
    const std::int64_t codes = table.dim(0), columns = table.dim(1);
    const auto* entries = table.as<std::int64_t>();
    for (std::int64_t i = 0; i < codes * columns; ++i) {
      if (entries[i] < 0 || entries[i] >= codes) {
        ort::refuse(kOp, "table[" + text(i / columns) + "," + text(i % columns) + "]", text(entries[i]),
                    "0 to " + text(codes - 1), "check what is connected");
      }
    }
  }

  std::string name;
  AcceptMode mode;
  std::int64_t group_size;
  float prob_tol, dist_tol, delta;
  std::int64_t relative;
  const void* constant = nullptr;  // the table whose entries are known to be good
};

struct GroupedAcceptOp : ort::Op<GroupedAcceptOp, GroupedAcceptKernel> {
  static constexpr const char* kName = kOp;
  static constexpr std::array kInputs{ort::kFloat, ort::kFloat, ort::kInt64, ort::kFloat, ort::kFloat, ort::kInt64};
  static constexpr std::size_t kRequired = 4;
  static constexpr std::array kOutputs{ort::kInt64, ort::kInt64, ort::kFloat};
};

ort::Registered<GroupedAcceptOp> registered;

}  // namespace
}  // namespace farthing
