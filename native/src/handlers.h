// The handlers that XLA calls.

#ifndef STN_JAX_NATIVE_HANDLERS_H_
#define STN_JAX_NATIVE_HANDLERS_H_

#include "xla/ffi/api/ffi.h"

namespace stn {

XLA_FFI_DECLARE_HANDLER_SYMBOL(SampleHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(SampleBytesHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(SamplePullHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(AffineHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(AffineBytesHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(AffinePullHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TapsHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(TapsPullHandler);

}  // namespace stn

#endif  // STN_JAX_NATIVE_HANDLERS_H_
