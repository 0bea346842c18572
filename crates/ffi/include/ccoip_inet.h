/* Addresses, under the name of PCCL's header; the types are in pccl.h. */
#ifndef PCCL_CCOIP_INET_H
#define PCCL_CCOIP_INET_H
#include "pccl.h"
#endif
