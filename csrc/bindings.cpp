// Python bindings of the compiled core: the only file here that knows Python.

#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
    m.doc() = "pygpt's compiled core";
}
