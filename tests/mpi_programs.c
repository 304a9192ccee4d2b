/* What the tests run by MPI: mpi-programs hello | ring | pingpong | fail CODE | stay SECONDS. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rank, size;

/* RANK SIZE HOST UID "contained" or "bare" */
static void hello(void) {
	char host[256];
	gethostname(host, sizeof(host));
	printf("hello %d %d %s %d %s\n", rank, size, host, (int)getuid(), access("/run/pbsdock", F_OK) ? "bare" : "contained");
}

/* A number goes round and each rank adds its own: rank 0 prints the sum. */
static void ring(void) {
	long sum = 0;
	int next = (rank + 1) % size, before = (rank + size - 1) % size;
	if (rank)
		MPI_Recv(&sum, 1, MPI_LONG, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	sum += rank;
	MPI_Send(&sum, 1, MPI_LONG, next, 0, MPI_COMM_WORLD);
	if (!rank) {
		MPI_Recv(&sum, 1, MPI_LONG, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		printf("ring %d %ld\n", size, sum);
	}
}

/* Seconds one way, between the first and the last rank; bytes are compared in the end. */
static double one_way(size_t bytes, int rounds) {
	char *buffer = malloc(bytes);
	int peer = rank ? 0 : size - 1;
	double began = 0;
	memset(buffer, rank ? 0 : 'x', bytes);
	for (int i = -rounds / 10 - 1; i < rounds; i++) {
		if (i == 0)
			began = MPI_Wtime();
		if (rank == 0)
			MPI_Send(buffer, (int)bytes, MPI_CHAR, peer, 0, MPI_COMM_WORLD);
		MPI_Recv(buffer, (int)bytes, MPI_CHAR, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		if (rank)
			MPI_Send(buffer, (int)bytes, MPI_CHAR, peer, 0, MPI_COMM_WORLD);
	}
	double took = (MPI_Wtime() - began) / rounds / 2;
	for (size_t i = 0; i < bytes; i++)
		if (buffer[i] != 'x')
			MPI_Abort(MPI_COMM_WORLD, 99);
	free(buffer);
	return took;
}

static void pingpong(void) {
	if (rank && rank != size - 1)
		return;
	double small = one_way(8, 5000), large = one_way(4 << 20, 100);
	if (!rank)
		printf("pingpong %.2f us %.2f GiB/s\n", small * 1e6, (4 << 20) / large / (1 << 30));
}

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "hello";
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (!strcmp(what, "hello"))
		hello();
	else if (!strcmp(what, "ring"))
		ring();
	else if (!strcmp(what, "pingpong"))
		pingpong();
	else if (!strcmp(what, "fail") && rank == size - 1)
		exit(atoi(argv[2]));
	else if (!strcmp(what, "stay"))
		sleep((unsigned)atoi(argv[2]));
	fflush(stdout);
	MPI_Finalize();
	return 0;
}
