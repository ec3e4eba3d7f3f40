// Python bindings of the compiled core: the only file here that knows Python.

#include <pybind11/pybind11.h>

void bind_cpu_ops(pybind11::module_& m);  // cpu_bindings.cpp

PYBIND11_MODULE(_C, m) {
    m.doc() = "pygpt's compiled core";
    bind_cpu_ops(m);
}
