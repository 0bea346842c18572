/* The layouts and values that programs compiled against PCCL 1.0.0's header have in them (x86-64, aarch64). */
#include <pccl.h>

#define IS(name, condition) typedef char name[(condition) ? 1 : -1]

IS(inet_size, sizeof(ccoip_inet_address_t) == 24 && offsetof(ccoip_inet_address_t, ipv4) == 4);
IS(inet_v6, offsetof(ccoip_inet_address_t, ipv6) == 8 && inetIPv4 == 0 && inetIPv6 == 1);
IS(socket_size, sizeof(ccoip_socket_address_t) == 28 && offsetof(ccoip_socket_address_t, port) == 24);
IS(params_size, sizeof(pcclCommCreateParams_t) == 36 && offsetof(pcclCommCreateParams_t, peer_group) == 28);
IS(params_pool, offsetof(pcclCommCreateParams_t, p2p_connection_pool_size) == 32);
IS(info_size, sizeof(pcclReduceInfo_t) == 24 && offsetof(pcclReduceInfo_t, tx_bytes) == 8);
IS(info_rx, offsetof(pcclReduceInfo_t, rx_bytes) == 16 && offsetof(pcclReduceInfo_t, local_world_size) == 0);
IS(operand_size, sizeof(pcclReduceOperandDescriptor_t) == 8);
IS(operand_hint, offsetof(pcclReduceOperandDescriptor_t, distribution_hint) == 4);
IS(quant_size, sizeof(pcclQuantizationOptions_t) == 8 && offsetof(pcclQuantizationOptions_t, algorithm) == 4);
IS(reduce_size, sizeof(pcclReduceDescriptor_t) == 40 && offsetof(pcclReduceDescriptor_t, op) == 8);
IS(reduce_tag, offsetof(pcclReduceDescriptor_t, tag) == 16);
IS(reduce_src, offsetof(pcclReduceDescriptor_t, src_descriptor) == 24);
IS(reduce_quant, offsetof(pcclReduceDescriptor_t, quantization_options) == 32);
IS(op_size, sizeof(pcclReduceOpDescriptor_t) == 56 && sizeof(struct pcclReduceSingleDescriptor_t) == 56);
IS(op_recv, offsetof(pcclReduceOpDescriptor_t, recvbuf) == 8);
IS(op_descriptor, offsetof(pcclReduceOpDescriptor_t, descriptor) == 16);
IS(async_size, sizeof(pcclAsyncReduceOp_t) == 16 && offsetof(pcclAsyncReduceOp_t, tag) == 8);
IS(uuid_size, sizeof(pcclRankUuid_t) == 16);
IS(tensor_size, sizeof(pcclTensorInfo_t) == 40 && offsetof(pcclTensorInfo_t, data) == 8);
IS(tensor_count, offsetof(pcclTensorInfo_t, count) == 16 && offsetof(pcclTensorInfo_t, datatype) == 24);
IS(tensor_device, offsetof(pcclTensorInfo_t, device_type) == 28);
IS(tensor_differs, offsetof(pcclTensorInfo_t, allow_content_inequality) == 32);
IS(state_size, sizeof(pcclSharedState_t) == 24 && offsetof(pcclSharedState_t, count) == 8);
IS(state_infos, offsetof(pcclSharedState_t, infos) == 16);
IS(sync_size, sizeof(pcclSharedStateSyncInfo_t) == 16 && offsetof(pcclSharedStateSyncInfo_t, rx_bytes) == 8);
IS(build_size, sizeof(pcclBuildInfo_t) == 1);
IS(enum_size, sizeof(pcclResult_t) == 4 && sizeof(pcclDataType_t) == 4 && sizeof(pcclAttribute_t) == 4);
IS(results, pcclSuccess == 0 && pcclNotInitialized == 1 && pcclInternalError == 2 && pcclInvalidArgument == 3);
IS(results4, pcclInvalidUsage == 4 && pcclTooFewPeers == 5 && pcclMasterConnectionFailed == 6);
IS(results7, pcclRankConnectionFailed == 7 && pcclRankConnectionLost == 8 && pcclNoSharedStateAvailable == 9);
IS(results10, pcclPendingAsyncOps == 10 && pcclUpdateTopologyFailed == 11 && pcclTopologyOptimizationFailed == 12);
IS(types, pcclUint8 == 0 && pcclInt8 == 1 && pcclInt16 == 2 && pcclUint16 == 3 && pcclUint32 == 4);
IS(types5, pcclInt32 == 5 && pcclUint64 == 6 && pcclInt64 == 7 && pcclFloat16 == 8 && pcclBFloat16 == 9);
IS(types10, pcclFloat == 10 && pcclDouble == 11 && pcclDeviceCpu == 0 && pcclDeviceCuda == 1);
IS(ops, pcclSum == 0 && pcclAvg == 1 && pcclProd == 2 && pcclMax == 3 && pcclMin == 4);
IS(attributes, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE == 1 && PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE == 2);
IS(attributes3, PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS == 3 && PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE == 4);
IS(popular, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR == 0);
IS(receive, PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY == 1 && PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY == 2);
IS(hints, pcclDistributionNone == 0 && pcclDistributionNormal == 1 && pcclDistributionUniform == 2);
IS(algorithms, pcclQuantNone == 0 && pcclQuantMinMax == 1 && pcclQuantZeroPointScale == 2 && pcclQuantOff == 3);

int main(void) { return 0; }
