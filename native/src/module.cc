// The Python module, which returns the handlers.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "handlers.h"
#include "variant.h"

namespace nb = nanobind;

namespace {

template <class Handler>
nb::capsule CapsuleOf(Handler* handler) {
  return nb::capsule(reinterpret_cast<void*>(handler));
}

nb::dict Handlers() {
  stn::ChosenVariant();  // Throws here, rather than during a computation, if there is none.
  nb::dict handlers;
  handlers["stn_jax_sample"] = CapsuleOf(stn::SampleHandler);
  handlers["stn_jax_sample_bytes"] = CapsuleOf(stn::SampleBytesHandler);
  handlers["stn_jax_sample_pull"] = CapsuleOf(stn::SamplePullHandler);
  handlers["stn_jax_affine"] = CapsuleOf(stn::AffineHandler);
  handlers["stn_jax_affine_bytes"] = CapsuleOf(stn::AffineBytesHandler);
  handlers["stn_jax_affine_pull"] = CapsuleOf(stn::AffinePullHandler);
  handlers["stn_jax_box_means"] = CapsuleOf(stn::BoxMeansHandler);
  handlers["stn_jax_box_means_pull"] = CapsuleOf(stn::BoxMeansPullHandler);
  handlers["stn_jax_follow"] = CapsuleOf(stn::FollowHandler);
  handlers["stn_jax_follow_pull"] = CapsuleOf(stn::FollowPullHandler);
  handlers["stn_jax_taps"] = CapsuleOf(stn::TapsHandler);
  handlers["stn_jax_taps_pull"] = CapsuleOf(stn::TapsPullHandler);
  return handlers;
}

nb::dict BuildInfo() {
  nb::dict info;
#if defined(__clang__)
  info["compiler"] = "Clang " __clang_version__;
#else
  info["compiler"] = "GCC " __VERSION__;
#endif
  nb::list variants;
  for (const stn::Variant* variant : stn::RunnableVariants()) variants.append(variant->name);
  info["variants"] = variants;
  info["variant"] = stn::ChosenVariant().name;
  info["ffi_api_version"] = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
#if defined(STN_SANITIZE)
  info["sanitized"] = true;
#else
  info["sanitized"] = false;
#endif
  return info;
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("handlers", &Handlers, "The XLA FFI handlers by their names.");
  module.def("build_info", &BuildInfo, "How this module was built, and which variant runs.");
}
