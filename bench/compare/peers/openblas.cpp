// OpenBLAS: sgemv for one token, sgemm for more.

#include "blas.hpp"

namespace compare {

void add_openblas(Field& field, std::size_t threads) {
  const Dynamic library(LOSA_COMPARE_OPENBLAS);
  library.get<void(int)>("openblas_set_num_threads")(static_cast<int>(threads));
  BlasFunctions blas;
  blas.sgemm = library.get<cblas::Sgemm>("cblas_sgemm");
  blas.sgemv = library.get<cblas::Sgemv>("cblas_sgemv");
  blas.kernel = library.get<char*()>("openblas_get_corename");
  field.libraries.push_back(
      {.name = "OpenBLAS", .version = library.get<char*()>("openblas_get_config")(), .absent = {}});
  add_blas(field, "OpenBLAS", blas);
}

}  // namespace compare
