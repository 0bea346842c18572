/* libpccl: fault-tolerant collectives over TCP/IP.
 *
 * Generated from crates/ffi/src; do not edit. The names, values and layouts up to pcclBuildInfo_t and the functions of
 * version PCCL_1.0 in pccl.map are those of PCCL 1.0.0, so that its programs run on this library and compile with this
 * header. Every function may be called from any thread; none lets a wrong argument, a wrong order of calls or a handle
 * that was destroyed do harm: it returns a code, and pcclGetLastError has the reason. */

#ifndef PCCL_H
#define PCCL_H

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif

#define PCCL_EXPORT __attribute__((visibility("default")))
#define PCCL_NULLABLE

/**
 * What a call returns.
 */
typedef enum pcclResult_t {
    /**
     * It did what it should.
     */
    pcclSuccess = 0,
    /**
     * `pcclInit` has not been called.
     */
    pcclNotInitialized = 1,
    /**
     * A fault of the library or of the system.
     */
    pcclInternalError = 2,
    /**
     * An argument is wrong.
     */
    pcclInvalidArgument = 3,
    /**
     * The call is not allowed now, or on this handle.
     */
    pcclInvalidUsage = 4,
    /**
     * The peer group has fewer than two members.
     */
    pcclTooFewPeers = 5,
    /**
     * No master lets this peer in.
     */
    pcclMasterConnectionFailed = 6,
    /**
     * The other peers cannot be reached.
     */
    pcclRankConnectionFailed = 7,
    /**
     * A peer was lost, or this peer's membership ended. The input is as it was: call again.
     */
    pcclRankConnectionLost = 8,
    /**
     * Nobody's shared state could win.
     */
    pcclNoSharedStateAvailable = 9,
    /**
     * Collectives of this peer are in flight: wait for them first.
     */
    pcclPendingAsyncOps = 10,
    /**
     * The vote on the topology did not end as it should.
     */
    pcclUpdateTopologyFailed = 11,
    /**
     * The vote on the measured links did not end as it should.
     */
    pcclTopologyOptimizationFailed = 12,
} pcclResult_t;

/**
 * Element type.
 */
typedef enum pcclDataType_t {
    /**
     * Unsigned 8-bit integer.
     */
    pcclUint8 = 0,
    /**
     * Signed 8-bit integer.
     */
    pcclInt8 = 1,
    /**
     * Signed 16-bit integer.
     */
    pcclInt16 = 2,
    /**
     * Unsigned 16-bit integer.
     */
    pcclUint16 = 3,
    /**
     * Unsigned 32-bit integer.
     */
    pcclUint32 = 4,
    /**
     * Signed 32-bit integer.
     */
    pcclInt32 = 5,
    /**
     * Unsigned 64-bit integer.
     */
    pcclUint64 = 6,
    /**
     * Signed 64-bit integer.
     */
    pcclInt64 = 7,
    /**
     * IEEE 754 binary16.
     */
    pcclFloat16 = 8,
    /**
     * The upper half of a binary32.
     */
    pcclBFloat16 = 9,
    /**
     * IEEE 754 binary32.
     */
    pcclFloat = 10,
    /**
     * IEEE 754 binary64.
     */
    pcclDouble = 11,
} pcclDataType_t;

/**
 * How elements are combined.
 */
typedef enum pcclRedOp_t {
    /**
     * Sum; integers wrap.
     */
    pcclSum = 0,
    /**
     * Sum divided by the number of peers that took part; integers truncate towards zero.
     */
    pcclAvg = 1,
    /**
     * Product; integers wrap.
     */
    pcclProd = 2,
    /**
     * Largest.
     */
    pcclMax = 3,
    /**
     * Smallest.
     */
    pcclMin = 4,
} pcclRedOp_t;

/**
 * How values are distributed; a hint that may be ignored.
 */
typedef enum pcclDistributionHint_t {
    /**
     * Not known.
     */
    pcclDistributionNone = 0,
    /**
     * Normal.
     */
    pcclDistributionNormal = 1,
    /**
     * Uniform.
     */
    pcclDistributionUniform = 2,
} pcclDistributionHint_t;

/**
 * How values are quantized on their way.
 */
typedef enum pcclQuantizationAlgorithm_t {
    /**
     * Not at all, unless the run has `performance.enable_compression`.
     */
    pcclQuantNone = 0,
    /**
     * The whole range of the integers for the values from the smallest to the largest of a block.
     */
    pcclQuantMinMax = 1,
    /**
     * As before, with the range widened to hold 0, which stays exactly 0.
     */
    pcclQuantZeroPointScale = 2,
    /**
     * Not at all, also in a run with `performance.enable_compression`. All members of the group must say so.
     */
    pcclQuantOff = 3,
} pcclQuantizationAlgorithm_t;

/**
 * Protocol of an address.
 */
typedef enum ccoip_inet_protocol_t {
    /**
     * Version 4.
     */
    inetIPv4 = 0,
    /**
     * Version 6.
     */
    inetIPv6 = 1,
} ccoip_inet_protocol_t;

/**
 * What `pcclGetAttribute` can be asked for.
 */
typedef enum pcclAttribute_t {
    /**
     * Members of all peer groups.
     */
    PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE = 1,
    /**
     * Members of this peer's group.
     */
    PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE = 2,
    /**
     * Peer groups that have members.
     */
    PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS = 3,
    /**
     * Members of the largest peer group.
     */
    PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE = 4,
} pcclAttribute_t;

/**
 * What to do next after an error (`pcclGetLastErrorClass`).
 */
typedef enum pcclErrorClass_t {
    /**
     * There was no error.
     */
    pcclErrorNone = 0,
    /**
     * Call again: the input is as it was.
     */
    pcclErrorRetry = 1,
    /**
     * Call `pcclConnect` again, synchronize, and go on: the input is as it was.
     */
    pcclErrorReconfigure = 2,
    /**
     * Correct the call: calling again ends the same way.
     */
    pcclErrorFatal = 3,
    /**
     * The in-place input is gone, because the run keeps no backups: load it again.
     */
    pcclErrorInputLost = 4,
} pcclErrorClass_t;

/**
 * Where a tensor is.
 */
typedef enum pcclDeviceType_t {
    /**
     * In main memory.
     */
    pcclDeviceCpu = 0,
    /**
     * In the memory of a CUDA device.
     */
    pcclDeviceCuda = 1,
} pcclDeviceType_t;

/**
 * What a peer wants of a synchronization.
 */
typedef enum pcclSharedStateSyncStrategy_t {
    /**
     * The most common content wins. If one peer says so, all must.
     */
    PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR = 0,
    /**
     * Never sends, and is not counted.
     */
    PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY = 1,
    /**
     * Never receives: its content must win. Senders with different contents are expelled.
     */
    PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY = 2,
} pcclSharedStateSyncStrategy_t;

/**
 * A peer.
 */
typedef struct pcclComm_t pcclComm_t;

/**
 * A master in this process.
 */
typedef struct pcclMasterInstanceState_t pcclMasterInstanceState_t;

/**
 * A member.
 */
typedef struct pcclRankInfo_t pcclRankInfo_t;

/**
 * How an op went.
 */
typedef struct pcclReduceInfo_t {
    /**
     * Peers that took part.
     */
    uint32_t local_world_size;
    /**
     * Bytes sent to other peers.
     */
    uint64_t tx_bytes;
    /**
     * Bytes received from other peers.
     */
    uint64_t rx_bytes;
} pcclReduceInfo_t;

/**
 * An operand.
 */
typedef struct pcclReduceOperandDescriptor_t {
    /**
     * Element type.
     */
    enum pcclDataType_t datatype;
    /**
     * Ignored.
     */
    enum pcclDistributionHint_t distribution_hint;
} pcclReduceOperandDescriptor_t;

/**
 * Whether and how values are quantized on their way.
 */
typedef struct pcclQuantizationOptions_t {
    /**
     * Integers of this type go over the network: 8 or 16 bits.
     */
    enum pcclDataType_t quantized_datatype;
    /**
     * How.
     */
    enum pcclQuantizationAlgorithm_t algorithm;
} pcclQuantizationOptions_t;

/**
 * A reduction.
 */
typedef struct pcclReduceDescriptor_t {
    /**
     * Elements.
     */
    size_t count;
    /**
     * How they are combined.
     */
    enum pcclRedOp_t op;
    /**
     * Names the op among those running at the same time; peers' calls meet by it.
     */
    uint64_t tag;
    /**
     * The operand.
     */
    struct pcclReduceOperandDescriptor_t src_descriptor;
    /**
     * Quantization.
     */
    struct pcclQuantizationOptions_t quantization_options;
} pcclReduceDescriptor_t;

/**
 * An op on its way.
 */
typedef struct pcclAsyncReduceOp_t {
    /**
     * Whose.
     */
    struct pcclComm_t *comm;
    /**
     * Its tag.
     */
    uint64_t tag;
} pcclAsyncReduceOp_t;

/**
 * One op of several.
 */
typedef struct pcclReduceSingleDescriptor_t {
    /**
     * What this peer contributes.
     */
    void *sendbuf;
    /**
     * Where the result goes; may be `sendbuf`.
     */
    void *recvbuf;
    /**
     * The reduction.
     */
    struct pcclReduceDescriptor_t descriptor;
} pcclReduceSingleDescriptor_t;

/**
 * One op of several.
 */
typedef struct pcclReduceSingleDescriptor_t pcclReduceOpDescriptor_t;

/**
 * An IPv4 address, in network order.
 */
typedef struct ccoip_ipv4_address_t {
    /**
     * The four numbers.
     */
    uint8_t data[4];
} ccoip_ipv4_address_t;

/**
 * An IPv6 address, in network order.
 */
typedef struct ccoip_ipv6_address_t {
    /**
     * The bytes.
     */
    uint8_t data[16];
} ccoip_ipv6_address_t;

/**
 * An IP address.
 */
typedef struct ccoip_inet_address_t {
    /**
     * Which of the two counts.
     */
    enum ccoip_inet_protocol_t protocol;
    /**
     * Version 4.
     */
    struct ccoip_ipv4_address_t ipv4;
    /**
     * Version 6.
     */
    struct ccoip_ipv6_address_t ipv6;
} ccoip_inet_address_t;

/**
 * An address with a port.
 */
typedef struct ccoip_socket_address_t {
    /**
     * The address.
     */
    struct ccoip_inet_address_t inet;
    /**
     * The port, in host order.
     */
    uint16_t port;
} ccoip_socket_address_t;

/**
 * How to create a communicator.
 */
typedef struct pcclCommCreateParams_t {
    /**
     * The master. With port 0, those of the configuration (`network.master_host`).
     */
    struct ccoip_socket_address_t master_address;
    /**
     * The peers that reduce together and synchronize.
     */
    uint32_t peer_group;
    /**
     * Ignored: one op uses as many connections as the links ask for, and ops run concurrently.
     */
    uint32_t p2p_connection_pool_size;
} pcclCommCreateParams_t;

/**
 * A master in this process.
 */
typedef struct pcclMasterInstanceState_t pcclMasterInstance_t;

/**
 * How the library was built.
 */
typedef struct pcclBuildInfo_t {
    /**
     * Whether tensors in the memory of CUDA devices can be synchronized: the driver, `libcuda.so.1`, is there.
     */
    bool has_cuda_support;
} pcclBuildInfo_t;

/**
 * A tensor of the shared state.
 */
typedef struct pcclTensorInfo_t {
    /**
     * Its name, unique among those of the state; UTF-8.
     */
    const char *name;
    /**
     * First element.
     */
    void *data;
    /**
     * Elements.
     */
    size_t count;
    /**
     * Element type.
     */
    enum pcclDataType_t datatype;
    /**
     * Where it is.
     */
    enum pcclDeviceType_t device_type;
    /**
     * Whether its content may differ from peer to peer: it is then neither compared nor sent.
     */
    bool allow_content_inequality;
} pcclTensorInfo_t;

/**
 * Named tensors that the group keeps bit-identical.
 */
typedef struct pcclSharedState_t {
    /**
     * Raised by the caller by exactly one before each synchronization; a synchronization sets it to what was agreed on.
     */
    uint64_t revision;
    /**
     * Tensors.
     */
    size_t count;
    /**
     * The tensors.
     */
    struct pcclTensorInfo_t *infos;
} pcclSharedState_t;

/**
 * How a synchronization went.
 */
typedef struct pcclSharedStateSyncInfo_t {
    /**
     * Tensor bytes sent; 0 if all agreed.
     */
    uint64_t tx_bytes;
    /**
     * Tensor bytes received; 0 if this peer had the content that won.
     */
    uint64_t rx_bytes;
} pcclSharedStateSyncInfo_t;

/**
 * Names one life of a peer.
 */
typedef struct pcclRankUuid_t {
    /**
     * The bytes.
     */
    uint8_t data[16];
} pcclRankUuid_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Fills `recvbuff` with the `count` elements in `sendbuff` of each member, in rank order. `recv_count` is what
 * `recvbuff` has room for: at least `count` times the world size, which may not be the one before the call if peers
 * were lost or let in; the info tells it.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for their elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllGather(const void *sendbuff,
                                size_t count,
                                void *recvbuff,
                                size_t recv_count,
                                enum pcclDataType_t datatype,
                                uint64_t tag,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Fills `recvbuff` with the `count` elements in `sendbuff` of each member, in rank order. `recv_count` is what
 * `recvbuff` has room for: at least `count` times the world size, which may not be the one before the call if peers
 * were lost or let in; the info tells it.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for their elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllGather(const void *sendbuff,
                                size_t count,
                                void *recvbuff,
                                size_t recv_count,
                                enum pcclDataType_t datatype,
                                uint64_t tag,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Reduces `sendbuff` of all members of the group into everybody's `recvbuff`, which may be the same. If a peer is lost
 * and the run leaves it to the caller to try again (the default of `pcclCreateMaster`), it returns
 * `pcclRankConnectionLost` with the input as it was.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduce(const void *sendbuff,
                                void *recvbuff,
                                const struct pcclReduceDescriptor_t *descriptor,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Reduces `sendbuff` of all members of the group into everybody's `recvbuff`, which may be the same. If a peer is lost
 * and the run leaves it to the caller to try again (the default of `pcclCreateMaster`), it returns
 * `pcclRankConnectionLost` with the input as it was.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduce(const void *sendbuff,
                                void *recvbuff,
                                const struct pcclReduceDescriptor_t *descriptor,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Starts an all-reduce; `pcclAwaitAsyncReduce` ends it. Until then the buffers belong to the library.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements until the op has been awaited, or the
 * communicator has been left or destroyed.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduceAsync(const void *sendbuff,
                                     void *recvbuff,
                                     const struct pcclReduceDescriptor_t *descriptor,
                                     const struct pcclComm_t *communicator,
                                     struct pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Starts an all-reduce; `pcclAwaitAsyncReduce` ends it. Until then the buffers belong to the library.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements until the op has been awaited, or the
 * communicator has been left or destroyed.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduceAsync(const void *sendbuff,
                                     void *recvbuff,
                                     const struct pcclReduceDescriptor_t *descriptor,
                                     const struct pcclComm_t *communicator,
                                     struct pcclAsyncReduceOp_t *reduce_handle_out);

/**
 * Performs all ops, at most `max_in_flight` at once, and tries again what was cut when a peer was lost. Success means
 * that every one was reduced; else the text names one that was not, and inputs of ops that were not reduced are as they
 * were.
 *
 * # Safety
 * The pointers must be null, or valid: `descriptors` for `count` of them, and each one's buffers for its elements.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduceMultipleWithRetry(const pcclReduceOpDescriptor_t *descriptors,
                                                 size_t count,
                                                 const struct pcclComm_t *communicator,
                                                 struct pcclReduceInfo_t *reduce_info_out,
                                                 int max_in_flight);

/**
 * Performs all ops, at most `max_in_flight` at once, and tries again what was cut when a peer was lost. Success means
 * that every one was reduced; else the text names one that was not, and inputs of ops that were not reduced are as they
 * were.
 *
 * # Safety
 * The pointers must be null, or valid: `descriptors` for `count` of them, and each one's buffers for its elements.
 */
PCCL_EXPORT
enum pcclResult_t pcclAllReduceMultipleWithRetry(const pcclReduceOpDescriptor_t *descriptors,
                                                 size_t count,
                                                 const struct pcclComm_t *communicator,
                                                 struct pcclReduceInfo_t *reduce_info_out,
                                                 int max_in_flight);

/**
 * Whether newcomers wait to be let in. All members of the group must ask, and all get the same answer. Ops of other
 * threads go on meanwhile.
 *
 * # Safety
 * `pending_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclArePeersPending(const struct pcclComm_t *communicator,
                                      bool *pending_out);

/**
 * Whether newcomers wait to be let in. All members of the group must ask, and all get the same answer. Ops of other
 * threads go on meanwhile.
 *
 * # Safety
 * `pending_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclArePeersPending(const struct pcclComm_t *communicator,
                                      bool *pending_out);

/**
 * Waits for an op, once.
 *
 * # Safety
 * The pointers must be null, or valid.
 */
PCCL_EXPORT
enum pcclResult_t pcclAwaitAsyncReduce(const struct pcclAsyncReduceOp_t *reduce_handle,
                                       struct pcclReduceInfo_t *reduce_info_out);

/**
 * Waits for an op, once.
 *
 * # Safety
 * The pointers must be null, or valid.
 */
PCCL_EXPORT
enum pcclResult_t pcclAwaitAsyncReduce(const struct pcclAsyncReduceOp_t *reduce_handle,
                                       struct pcclReduceInfo_t *reduce_info_out);

/**
 * Returns when every member of the group has called it.
 */
PCCL_EXPORT enum pcclResult_t pcclBarrier(uint64_t tag, const struct pcclComm_t *communicator);

/**
 * Returns when every member of the group has called it.
 */
PCCL_EXPORT enum pcclResult_t pcclBarrier(uint64_t tag, const struct pcclComm_t *communicator);

/**
 * Gives everybody the `count` elements in `buffer` of the member of rank `root`.
 *
 * # Safety
 * The pointers must be null, or valid: `buffer` for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclBroadcast(void *buffer,
                                size_t count,
                                enum pcclDataType_t datatype,
                                uint32_t root,
                                uint64_t tag,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Gives everybody the `count` elements in `buffer` of the member of rank `root`.
 *
 * # Safety
 * The pointers must be null, or valid: `buffer` for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclBroadcast(void *buffer,
                                size_t count,
                                enum pcclDataType_t datatype,
                                uint32_t root,
                                uint64_t tag,
                                const struct pcclComm_t *communicator,
                                struct pcclReduceInfo_t *reduce_info_out);

/**
 * Connects to the master and waits until the members let this peer in by `pcclUpdateTopology`; the first peers are let
 * in at once. After a failure it may be called again; also when this peer's membership has ended, to join again.
 */
PCCL_EXPORT
enum pcclResult_t pcclConnect(struct pcclComm_t *communicator);

/**
 * Connects to the master and waits until the members let this peer in by `pcclUpdateTopology`; the first peers are let
 * in at once. After a failure it may be called again; also when this peer's membership has ended, to join again.
 */
PCCL_EXPORT
enum pcclResult_t pcclConnect(struct pcclComm_t *communicator);

/**
 * Creates a communicator; nothing is connected yet.
 *
 * # Safety
 * `params` must be null or valid for reading, `comm_out` null or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclCreateCommunicator(const struct pcclCommCreateParams_t *params,
                                         struct pcclComm_t **comm_out);

/**
 * Creates a communicator; nothing is connected yet.
 *
 * # Safety
 * `params` must be null or valid for reading, `comm_out` null or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclCreateCommunicator(const struct pcclCommCreateParams_t *params,
                                         struct pcclComm_t **comm_out);

/**
 * Creates a master; it does not listen yet. Port 0 stands for any free one (`pcclGetMasterPort`).
 *
 * # Safety
 * `p_master_handle_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclCreateMaster(struct ccoip_socket_address_t listen_address,
                                   pcclMasterInstance_t **p_master_handle_out);

/**
 * Creates a master; it does not listen yet. Port 0 stands for any free one (`pcclGetMasterPort`).
 *
 * # Safety
 * `p_master_handle_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclCreateMaster(struct ccoip_socket_address_t listen_address,
                                   pcclMasterInstance_t **p_master_handle_out);

/**
 * Leaves the run at once and forgets the communicator. Ops in flight end with their inputs as they were: when it
 * returns, the library touches none of the caller's memory.
 */
PCCL_EXPORT
enum pcclResult_t pcclDestroyCommunicator(struct pcclComm_t *communicator);

/**
 * Leaves the run at once and forgets the communicator. Ops in flight end with their inputs as they were: when it
 * returns, the library touches none of the caller's memory.
 */
PCCL_EXPORT
enum pcclResult_t pcclDestroyCommunicator(struct pcclComm_t *communicator);

/**
 * Forgets a master that has ended (`pcclMasterAwaitTermination`) or was never run.
 */
PCCL_EXPORT enum pcclResult_t pcclDestroyMaster(pcclMasterInstance_t *master_instance);

/**
 * Forgets a master that has ended (`pcclMasterAwaitTermination`) or was never run.
 */
PCCL_EXPORT enum pcclResult_t pcclDestroyMaster(pcclMasterInstance_t *master_instance);

/**
 * Reads an attribute of the newest epoch.
 *
 * # Safety
 * `p_attribute_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclGetAttribute(const struct pcclComm_t *communicator,
                                   enum pcclAttribute_t attribute,
                                   int *p_attribute_out);

/**
 * Reads an attribute of the newest epoch.
 *
 * # Safety
 * `p_attribute_out` must be null, or valid for writing.
 */
PCCL_EXPORT
enum pcclResult_t pcclGetAttribute(const struct pcclComm_t *communicator,
                                   enum pcclAttribute_t attribute,
                                   int *p_attribute_out);

/**
 * Says how the library was built, and whether it has found the driver of CUDA devices.
 *
 * # Safety
 * `info` must be null, or valid for writing.
 */
PCCL_EXPORT enum pcclResult_t pcclGetBuildInfo(struct pcclBuildInfo_t *info);

/**
 * Says how the library was built, and whether it has found the driver of CUDA devices.
 *
 * # Safety
 * `info` must be null, or valid for writing.
 */
PCCL_EXPORT enum pcclResult_t pcclGetBuildInfo(struct pcclBuildInfo_t *info);

/**
 * What went wrong in the last call of this thread that did not return `pcclSuccess`, and what to do about it, in words:
 * UTF-8, never null, empty if there was none, valid until the next such call of this thread.
 */
PCCL_EXPORT
const char *pcclGetLastError(void);

/**
 * What went wrong in the last call of this thread that did not return `pcclSuccess`, and what to do about it, in words:
 * UTF-8, never null, empty if there was none, valid until the next such call of this thread.
 */
PCCL_EXPORT
const char *pcclGetLastError(void);

/**
 * What to do next after the last call of this thread that did not return `pcclSuccess`.
 */
PCCL_EXPORT enum pcclErrorClass_t pcclGetLastErrorClass(void);

/**
 * What to do next after the last call of this thread that did not return `pcclSuccess`.
 */
PCCL_EXPORT enum pcclErrorClass_t pcclGetLastErrorClass(void);

/**
 * The port on which a running master listens.
 *
 * # Safety
 * `port_out` must be null, or valid for writing.
 */
PCCL_EXPORT enum pcclResult_t pcclGetMasterPort(const pcclMasterInstance_t *master_instance, int *port_out);

/**
 * The port on which a running master listens.
 *
 * # Safety
 * `port_out` must be null, or valid for writing.
 */
PCCL_EXPORT enum pcclResult_t pcclGetMasterPort(const pcclMasterInstance_t *master_instance, int *port_out);

/**
 * The version of the library, as `major.minor.patch`.
 */
PCCL_EXPORT const char *pcclGetVersion(void);

/**
 * The version of the library, as `major.minor.patch`.
 */
PCCL_EXPORT const char *pcclGetVersion(void);

/**
 * Initializes the library. May be called again; every other call but those about the build and the last error wants it.
 */
PCCL_EXPORT
enum pcclResult_t pcclInit(void);

/**
 * Initializes the library. May be called again; every other call but those about the build and the last error wants it.
 */
PCCL_EXPORT
enum pcclResult_t pcclInit(void);

/**
 * Asks the master to end, without waiting for it. May be called from a signal handler of a thread that waits in
 * `pcclMasterAwaitTermination`.
 */
PCCL_EXPORT
enum pcclResult_t pcclInterruptMaster(pcclMasterInstance_t *master_instance);

/**
 * Asks the master to end, without waiting for it. May be called from a signal handler of a thread that waits in
 * `pcclMasterAwaitTermination`.
 */
PCCL_EXPORT
enum pcclResult_t pcclInterruptMaster(pcclMasterInstance_t *master_instance);

/**
 * Leaves the run after the ops of this peer that are in flight; the others go on at once. `pcclConnect` joins again.
 */
PCCL_EXPORT
enum pcclResult_t pcclLeave(struct pcclComm_t *communicator);

/**
 * Leaves the run after the ops of this peer that are in flight; the others go on at once. `pcclConnect` joins again.
 */
PCCL_EXPORT
enum pcclResult_t pcclLeave(struct pcclComm_t *communicator);

/**
 * Waits until the master has ended, by `pcclInterruptMaster` or by itself.
 */
PCCL_EXPORT enum pcclResult_t pcclMasterAwaitTermination(pcclMasterInstance_t *master_instance);

/**
 * Waits until the master has ended, by `pcclInterruptMaster` or by itself.
 */
PCCL_EXPORT enum pcclResult_t pcclMasterAwaitTermination(pcclMasterInstance_t *master_instance);

/**
 * Lets the choice of algorithms use what the members have measured of their links. All members of the group must call
 * it, with no op in flight.
 */
PCCL_EXPORT
enum pcclResult_t pcclOptimizeTopology(const struct pcclComm_t *communicator);

/**
 * Lets the choice of algorithms use what the members have measured of their links. All members of the group must call
 * it, with no op in flight.
 */
PCCL_EXPORT
enum pcclResult_t pcclOptimizeTopology(const struct pcclComm_t *communicator);

/**
 * Reduces the `count` elements in `sendbuff` of all members and gives each one block of the result, in rank order; the
 * first blocks are one element longer if the members do not divide the count. `recvbuff` must have room for `count`
 * elements, because blocks grow if a peer is lost on the way. The block is elements `*start_out` to `*start_out +
 * *block_out` of the result; both may be null.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclReduceScatter(const void *sendbuff,
                                    void *recvbuff,
                                    size_t count,
                                    enum pcclDataType_t datatype,
                                    enum pcclRedOp_t op,
                                    uint64_t tag,
                                    const struct pcclComm_t *communicator,
                                    size_t *start_out,
                                    size_t *block_out,
                                    struct pcclReduceInfo_t *reduce_info_out);

/**
 * Reduces the `count` elements in `sendbuff` of all members and gives each one block of the result, in rank order; the
 * first blocks are one element longer if the members do not divide the count. `recvbuff` must have room for `count`
 * elements, because blocks grow if a peer is lost on the way. The block is elements `*start_out` to `*start_out +
 * *block_out` of the result; both may be null.
 *
 * # Safety
 * The pointers must be null, or valid: the buffers for `count` elements, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclReduceScatter(const void *sendbuff,
                                    void *recvbuff,
                                    size_t count,
                                    enum pcclDataType_t datatype,
                                    enum pcclRedOp_t op,
                                    uint64_t tag,
                                    const struct pcclComm_t *communicator,
                                    size_t *start_out,
                                    size_t *block_out,
                                    struct pcclReduceInfo_t *reduce_info_out);

/**
 * Starts the master and returns.
 */
PCCL_EXPORT enum pcclResult_t pcclRunMaster(pcclMasterInstance_t *master_instance);

/**
 * Starts the master and returns.
 */
PCCL_EXPORT enum pcclResult_t pcclRunMaster(pcclMasterInstance_t *master_instance);

/**
 * Sets an option before `pcclRunMaster`: `config_file` (path of a YAML file) or any key of the configuration
 * (`network.heartbeat_timeout_ms`, `fault_tolerance.recovery`, `store.path`, …).
 *
 * # Safety
 * `key` and `value` must be null, or end in a zero byte.
 */
PCCL_EXPORT
enum pcclResult_t pcclSetMasterOption(pcclMasterInstance_t *master_instance,
                                      const char *key,
                                      const char *value);

/**
 * Sets an option before `pcclRunMaster`: `config_file` (path of a YAML file) or any key of the configuration
 * (`network.heartbeat_timeout_ms`, `fault_tolerance.recovery`, `store.path`, …).
 *
 * # Safety
 * `key` and `value` must be null, or end in a zero byte.
 */
PCCL_EXPORT
enum pcclResult_t pcclSetMasterOption(pcclMasterInstance_t *master_instance,
                                      const char *key,
                                      const char *value);

/**
 * Sets an option, before `pcclConnect`: `algorithm` (`auto`, `direct`, `ring`, `doubling`, `star`; also later),
 * `connect_timeout_ms`, `config_file` (path of a YAML file), or any key of the configuration
 * (`network.heartbeat_timeout_ms`, `network.site`, …). Both are texts that end in a zero byte.
 *
 * # Safety
 * `key` and `value` must be null, or end in a zero byte.
 */
PCCL_EXPORT
enum pcclResult_t pcclSetOption(struct pcclComm_t *communicator,
                                const char *key,
                                const char *value);

/**
 * Sets an option, before `pcclConnect`: `algorithm` (`auto`, `direct`, `ring`, `doubling`, `star`; also later),
 * `connect_timeout_ms`, `config_file` (path of a YAML file), or any key of the configuration
 * (`network.heartbeat_timeout_ms`, `network.site`, …). Both are texts that end in a zero byte.
 *
 * # Safety
 * `key` and `value` must be null, or end in a zero byte.
 */
PCCL_EXPORT
enum pcclResult_t pcclSetOption(struct pcclComm_t *communicator,
                                const char *key,
                                const char *value);

/**
 * Makes the tensors of all members of the group bit-identical, and agrees on the revision. All members must call it,
 * with no op in flight. All or nothing: after an error the tensors are as they were. Tensors on CUDA devices are copied to
 * main memory, and back when they were changed; all that their context has been given to do is waited for.
 *
 * # Safety
 * The pointers must be null, or valid: `infos` for `count` of them, each one's name and data too, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclSynchronizeSharedState(const struct pcclComm_t *communicator,
                                             struct pcclSharedState_t *shared_state,
                                             enum pcclSharedStateSyncStrategy_t strategy,
                                             struct pcclSharedStateSyncInfo_t *sync_info_out);

/**
 * Makes the tensors of all members of the group bit-identical, and agrees on the revision. All members must call it,
 * with no op in flight. All or nothing: after an error the tensors are as they were. Tensors on CUDA devices are copied to
 * main memory, and back when they were changed; all that their context has been given to do is waited for.
 *
 * # Safety
 * The pointers must be null, or valid: `infos` for `count` of them, each one's name and data too, during the call.
 */
PCCL_EXPORT
enum pcclResult_t pcclSynchronizeSharedState(const struct pcclComm_t *communicator,
                                             struct pcclSharedState_t *shared_state,
                                             enum pcclSharedStateSyncStrategy_t strategy,
                                             struct pcclSharedStateSyncInfo_t *sync_info_out);

/**
 * Lets the newcomers in that wait in `pcclConnect`. All members of the group must call it, with no op in flight.
 */
PCCL_EXPORT
enum pcclResult_t pcclUpdateTopology(struct pcclComm_t *communicator);

/**
 * Lets the newcomers in that wait in `pcclConnect`. All members of the group must call it, with no op in flight.
 */
PCCL_EXPORT
enum pcclResult_t pcclUpdateTopology(struct pcclComm_t *communicator);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PCCL_H */
