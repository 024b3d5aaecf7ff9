// Chooses the kernels for the processor that runs the program.

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "variant.h"

namespace stn {

namespace baseline {
extern const Variant kVariant;
}
#if defined(STN_HAS_X86_VARIANTS)
namespace avx2 {
extern const Variant kVariant;
}
namespace avx512 {
extern const Variant kVariant;
}
#endif

std::vector<const Variant*> RunnableVariants() {
  std::vector<const Variant*> result = {&baseline::kVariant};
#if defined(STN_HAS_X86_VARIANTS)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  if (has_avx2) result.push_back(&avx2::kVariant);
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    result.push_back(&avx512::kVariant);
  }
#endif
  return result;
}

const Variant& ChosenVariant() {
  static const Variant& chosen = []() -> const Variant& {
    const std::vector<const Variant*> runnable = RunnableVariants();
    const char* wish = std::getenv("STN_JAX_NATIVE_VARIANT");
    if (wish == nullptr || *wish == '\0') return *runnable.back();
    std::string names;
    for (const Variant* variant : runnable) {
      if (std::string(wish) == variant->name) return *variant;
      names += (names.empty() ? "" : ", ") + std::string(variant->name);
    }
    throw std::invalid_argument("STN_JAX_NATIVE_VARIANT is \"" + std::string(wish) +
                                "\"; this build and processor have: " + names + ".");
  }();
  return chosen;
}

}  // namespace stn
