#ifndef STN_JAX_NATIVE_VARIANT_H_
#define STN_JAX_NATIVE_VARIANT_H_

#include <vector>

#include "engine.h"

namespace stn {

// The variants that this processor can run, the best last.
std::vector<const Variant*> RunnableVariants();

// The best of them, or the one that the environment variable STN_JAX_NATIVE_VARIANT names. Throws
// std::invalid_argument if there is none of that name.
const Variant& ChosenVariant();

}  // namespace stn

#endif  // STN_JAX_NATIVE_VARIANT_H_
