// cuBLAS and cuBLASLt without a device: a product is one node of its stream.
//
// Arguments behind the last one that is read are left out of the functions here, which the calling conventions of
// x86-64 and AArch64 allow. The real headers would not, so that they are not included.
#include <cstddef>

namespace {

struct Blas {
  void* stream = nullptr;
};

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  unsigned long long algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

enum { SUCCESS = 0, NOT_INITIALIZED = 1, EXECUTION_FAILED = 13 };

}  // namespace

extern "C" {

// In runtime.cpp.
int fake_launch(void* stream, const char* name);
int fake_unsafe(const char* what);

static int product(Blas* blas, const char* name) {
  return fake_launch(blas->stream, name) == 0 ? SUCCESS : EXECUTION_FAILED;
}

int cublasCreate_v2(Blas** blas) {
  if (fake_unsafe("cublasCreate")) return NOT_INITIALIZED;  // it allocates
  *blas = new Blas;
  return SUCCESS;
}

int cublasDestroy_v2(Blas* blas) {
  delete blas;
  return SUCCESS;
}

int cublasSetStream_v2(Blas* blas, void* stream) {
  blas->stream = stream;
  return SUCCESS;
}

int cublasGetMathMode(Blas*, int* mode) {
  *mode = 0;
  return SUCCESS;
}

int cublasSetMathMode() { return SUCCESS; }
int cublasSetWorkspace_v2() { return SUCCESS; }
int cublasGemmEx(Blas* blas) { return product(blas, "cublasGemmEx"); }
int cublasGemmStridedBatchedEx(Blas* blas) { return product(blas, "cublasGemmStridedBatchedEx"); }
int cublasSgemm_v2(Blas* blas) { return product(blas, "cublasSgemm"); }
int cublasSgemmStridedBatched(Blas* blas) { return product(blas, "cublasSgemmStridedBatched"); }
int cublasDgemm_v2(Blas* blas) { return product(blas, "cublasDgemm"); }
int cublasDgemmStridedBatched(Blas* blas) { return product(blas, "cublasDgemmStridedBatched"); }

// Descriptions of products: made and forgotten.
static int describe(void** out) {
  static int description;
  *out = &description;
  return SUCCESS;
}

int cublasLtMatmulDescCreate(void** out) { return describe(out); }
int cublasLtMatmulDescDestroy() { return SUCCESS; }
int cublasLtMatmulDescSetAttribute() { return SUCCESS; }
int cublasLtMatmulPreferenceCreate(void** out) { return describe(out); }
int cublasLtMatmulPreferenceDestroy() { return SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute() { return SUCCESS; }
int cublasLtMatrixLayoutCreate(void** out) { return describe(out); }
int cublasLtMatrixLayoutDestroy() { return SUCCESS; }
int cublasLtMatrixLayoutSetAttribute() { return SUCCESS; }

int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, Heuristic* found, int* number) {
  *found = {};
  *number = 1;
  return SUCCESS;
}

int cublasLtMatmul(
    void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, size_t,
    void* stream) {
  Blas blas{stream};
  return product(&blas, "cublasLtMatmul");
}
}
