/* C = A B with ScaLAPACK's pdgemm, once for each line on standard input; prints the seconds of the slowest rank.

   mpicc -O2 pdgemm.c -lscalapack-openmpi -o pdgemm && yes | head -3 | mpirun -n 2 ./pdgemm 4096 4096 4096 2 1
   (m, n, k, rows and columns of the grid of ranks). While it waits, it sleeps. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void Cblacs_get(int, int, int *);
void Cblacs_gridinit(int *, const char *, int, int);
void Cblacs_gridinfo(int, int *, int *, int *, int *);
int numroc_(const int *, const int *, const int *, const int *, const int *);
void descinit_(int *, const int *, const int *, const int *, const int *, const int *, const int *, const int *,
               const int *, int *);
void pdgemm_(const char *, const char *, const int *, const int *, const int *, const double *, const double *,
             const int *, const int *, const int *, const double *, const int *, const int *, const int *,
             const double *, double *, const int *, const int *, const int *);

enum { BLOCK = 128, ZERO = 0, ONE = 1 };
static int grid[2], at[2], context;

/* This rank's part of a matrix, block-cyclic; element (i, j) is the row's number times the column's. */
static double *matrix(int m, int n, int *desc, int *local, int rows, int columns) {
    int block = BLOCK, zero = ZERO, info;
    for (int d = 0; d < 2; d++) local[d] = numroc_(d ? &n : &m, &block, &at[d], &zero, &grid[d]);
    int lead = local[0] > 1 ? local[0] : 1;
    descinit_(desc, &m, &n, &block, &block, &zero, &zero, &context, &lead, &info);
    double *x = malloc(sizeof(double) * (size_t)lead * (local[1] + 1));
    for (int j = 0; j < local[1]; j++)
        for (int i = 0; i < local[0]; i++) {
            int global[2] = {((i / BLOCK) * grid[0] + at[0]) * BLOCK + i % BLOCK,
                             ((j / BLOCK) * grid[1] + at[1]) * BLOCK + j % BLOCK};
            x[(size_t)j * lead + i] = (rows ? global[0] % 7 - 3 : 1) * (columns ? global[1] % 5 - 2 : 1);
        }
    return x;
}

int main(int argc, char **argv) {
    int rank, m = atoi(argv[1]), n = atoi(argv[2]), k = atoi(argv[3]), one = ONE, wrong = 0;
    int desc_a[9], desc_b[9], desc_c[9], local[2];
    double zero = 0, unit = 1, seconds, slowest;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    Cblacs_get(-1, 0, &context);
    Cblacs_gridinit(&context, "Row", atoi(argv[4]), atoi(argv[5]));
    Cblacs_gridinfo(context, &grid[0], &grid[1], &at[0], &at[1]);
    double *a = matrix(m, k, desc_a, local, 1, 0), *b = matrix(k, n, desc_b, local, 0, 1);
    double *c = matrix(m, n, desc_c, local, 1, 1), *wanted = matrix(m, n, desc_c, local, 1, 1);
    for (char line[64];;) {
        int more = rank == 0 && fgets(line, sizeof line, stdin) != NULL, told = 0;
        MPI_Request request;
        MPI_Ibcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD, &request);
        for (; MPI_Test(&request, &told, MPI_STATUS_IGNORE), !told;) usleep(1000);
        if (!more) break;
        MPI_Barrier(MPI_COMM_WORLD);
        seconds = -MPI_Wtime();
        pdgemm_("N", "N", &m, &n, &k, &unit, a, &one, &one, desc_a, b, &one, &one, desc_b, &zero, c, &one, &one, desc_c);
        seconds += MPI_Wtime();
        MPI_Reduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        for (size_t i = 0; i < (size_t)local[0] * local[1]; i++) wrong |= c[i] != k * wanted[i];
        MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_INT, MPI_LOR, MPI_COMM_WORLD);
        if (rank == 0) printf("%s\n", wrong ? "wrong" : (snprintf(line, sizeof line, "%.9f", slowest), line));
        fflush(stdout);
    }
    MPI_Finalize();
    return wrong;
}
