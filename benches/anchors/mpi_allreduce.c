/* One rank of MPI_Allreduce. The transport is the caller's choice:
 *
 *   mpirun -np N --mca btl tcp,self ... mpi_allreduce --bytes B --seconds S --timeout-s T
 */
#include <limits.h>
#include <mpi.h>

#include "anchor.h"

static int allreduce(void *context, const float *input, float *output, size_t count) {
    (void)context;
    /* Errors end the job: MPI_ERRORS_ARE_FATAL is the default. */
    return MPI_Allreduce(input, output, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    struct anchor a;
    anchor_parse(&a, argc, argv, "mpi");
    if (a.bytes / sizeof(float) > INT_MAX) {
        anchor_die("--bytes", "more elements than an MPI count can hold");
    }
    int rank = 0, size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    a.rank = (unsigned)rank;
    a.peers = (unsigned)size;
    anchor_measure(&a, allreduce, NULL);
    MPI_Finalize();
    return 0;
}
