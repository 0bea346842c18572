//! Types as C sees them. An enumeration that comes from C may hold anything: it stands as [`MaybeUninit`], which has the
//! same layout, and is read as a number (`convert`).

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

/// What a call returns.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum pcclResult_t {
    /// It did what it should.
    pcclSuccess = 0,
    /// `pcclInit` has not been called.
    pcclNotInitialized = 1,
    /// A fault of the library or of the system.
    pcclInternalError = 2,
    /// An argument is wrong.
    pcclInvalidArgument = 3,
    /// The call is not allowed now, or on this handle.
    pcclInvalidUsage = 4,
    /// The peer group has fewer than two members.
    pcclTooFewPeers = 5,
    /// No master lets this peer in.
    pcclMasterConnectionFailed = 6,
    /// The other peers cannot be reached.
    pcclRankConnectionFailed = 7,
    /// A peer was lost, or this peer's membership ended. The input is as it was: call again.
    pcclRankConnectionLost = 8,
    /// Nobody's shared state could win.
    pcclNoSharedStateAvailable = 9,
    /// Collectives of this peer are in flight: wait for them first.
    pcclPendingAsyncOps = 10,
    /// The vote on the topology did not end as it should.
    pcclUpdateTopologyFailed = 11,
    /// The vote on the measured links did not end as it should.
    pcclTopologyOptimizationFailed = 12,
}

/// Element type.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclDataType_t {
    /// Unsigned 8-bit integer.
    pcclUint8 = 0,
    /// Signed 8-bit integer.
    pcclInt8 = 1,
    /// Signed 16-bit integer.
    pcclInt16 = 2,
    /// Unsigned 16-bit integer.
    pcclUint16 = 3,
    /// Unsigned 32-bit integer.
    pcclUint32 = 4,
    /// Signed 32-bit integer.
    pcclInt32 = 5,
    /// Unsigned 64-bit integer.
    pcclUint64 = 6,
    /// Signed 64-bit integer.
    pcclInt64 = 7,
    /// IEEE 754 binary16.
    pcclFloat16 = 8,
    /// The upper half of a binary32.
    pcclBFloat16 = 9,
    /// IEEE 754 binary32.
    pcclFloat = 10,
    /// IEEE 754 binary64.
    pcclDouble = 11,
}

/// Where a tensor is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclDeviceType_t {
    /// In main memory.
    pcclDeviceCpu = 0,
    /// In the memory of a CUDA device.
    pcclDeviceCuda = 1,
}

/// How elements are combined.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclRedOp_t {
    /// Sum; integers wrap.
    pcclSum = 0,
    /// Sum divided by the number of peers that took part; integers truncate towards zero.
    pcclAvg = 1,
    /// Product; integers wrap.
    pcclProd = 2,
    /// Largest.
    pcclMax = 3,
    /// Smallest.
    pcclMin = 4,
}

/// What `pcclGetAttribute` can be asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclAttribute_t {
    /// Members of all peer groups.
    PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE = 1,
    /// Members of this peer's group.
    PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE = 2,
    /// Peer groups that have members.
    PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS = 3,
    /// Members of the largest peer group.
    PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE = 4,
}

/// What a peer wants of a synchronization.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclSharedStateSyncStrategy_t {
    /// The most common content wins. If one peer says so, all must.
    PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR = 0,
    /// Never sends, and is not counted.
    PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY = 1,
    /// Never receives: its content must win. Senders with different contents are expelled.
    PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY = 2,
}

/// How values are distributed; a hint that may be ignored.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclDistributionHint_t {
    /// Not known.
    pcclDistributionNone = 0,
    /// Normal.
    pcclDistributionNormal = 1,
    /// Uniform.
    pcclDistributionUniform = 2,
}

/// How values are quantized on their way.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum pcclQuantizationAlgorithm_t {
    /// Not at all, unless the run has `performance.enable_compression`.
    pcclQuantNone = 0,
    /// The whole range of the integers for the values from the smallest to the largest of a block.
    pcclQuantMinMax = 1,
    /// As before, with the range widened to hold 0, which stays exactly 0.
    pcclQuantZeroPointScale = 2,
    /// Not at all, also in a run with `performance.enable_compression`. All members of the group must say so.
    pcclQuantOff = 3,
}

/// What to do next after an error (`pcclGetLastErrorClass`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum pcclErrorClass_t {
    /// There was no error.
    pcclErrorNone = 0,
    /// Call again: the input is as it was.
    pcclErrorRetry = 1,
    /// Call `pcclConnect` again, synchronize, and go on: the input is as it was.
    pcclErrorReconfigure = 2,
    /// Correct the call: calling again ends the same way.
    pcclErrorFatal = 3,
    /// The in-place input is gone, because the run keeps no backups: load it again.
    pcclErrorInputLost = 4,
}

/// Protocol of an address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub enum ccoip_inet_protocol_t {
    /// Version 4.
    inetIPv4 = 0,
    /// Version 6.
    inetIPv6 = 1,
}

/// An IPv4 address, in network order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ccoip_ipv4_address_t {
    /// The four numbers.
    pub data: [u8; 4],
}

/// An IPv6 address, in network order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ccoip_ipv6_address_t {
    /// The bytes.
    pub data: [u8; 16],
}

/// An IP address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ccoip_inet_address_t {
    /// Which of the two counts.
    pub protocol: MaybeUninit<ccoip_inet_protocol_t>,
    /// Version 4.
    pub ipv4: ccoip_ipv4_address_t,
    /// Version 6.
    pub ipv6: ccoip_ipv6_address_t,
}

/// An address with a port.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ccoip_socket_address_t {
    /// The address.
    pub inet: ccoip_inet_address_t,
    /// The port, in host order.
    pub port: u16,
}

/// How to create a communicator.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclCommCreateParams_t {
    /// The master. With port 0, those of the configuration (`network.master_host`).
    pub master_address: ccoip_socket_address_t,
    /// The peers that reduce together and synchronize.
    pub peer_group: u32,
    /// Ignored: one op uses as many connections as the links ask for, and ops run concurrently.
    pub p2p_connection_pool_size: u32,
}

/// A peer.
pub struct pcclComm_t {
    _opaque: [u8; 0],
}

/// A member.
pub struct pcclRankInfo_t {
    _opaque: [u8; 0],
}

/// Names one life of a peer.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclRankUuid_t {
    /// The bytes.
    pub data: [u8; 16],
}

/// How an op went.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct pcclReduceInfo_t {
    /// Peers that took part.
    pub local_world_size: u32,
    /// Bytes sent to other peers.
    pub tx_bytes: u64,
    /// Bytes received from other peers.
    pub rx_bytes: u64,
}

/// An operand.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclReduceOperandDescriptor_t {
    /// Element type.
    pub datatype: MaybeUninit<pcclDataType_t>,
    /// Ignored.
    pub distribution_hint: MaybeUninit<pcclDistributionHint_t>,
}

/// Whether and how values are quantized on their way.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclQuantizationOptions_t {
    /// Integers of this type go over the network: 8 or 16 bits.
    pub quantized_datatype: MaybeUninit<pcclDataType_t>,
    /// How.
    pub algorithm: MaybeUninit<pcclQuantizationAlgorithm_t>,
}

/// A reduction.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclReduceDescriptor_t {
    /// Elements.
    pub count: usize,
    /// How they are combined.
    pub op: MaybeUninit<pcclRedOp_t>,
    /// Names the op among those running at the same time; peers' calls meet by it.
    pub tag: u64,
    /// The operand.
    pub src_descriptor: pcclReduceOperandDescriptor_t,
    /// Quantization.
    pub quantization_options: pcclQuantizationOptions_t,
}

/// One op of several.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclReduceSingleDescriptor_t {
    /// What this peer contributes.
    pub sendbuf: *mut c_void,
    /// Where the result goes; may be `sendbuf`.
    pub recvbuf: *mut c_void,
    /// The reduction.
    pub descriptor: pcclReduceDescriptor_t,
}

/// One op of several.
pub type pcclReduceOpDescriptor_t = pcclReduceSingleDescriptor_t;

/// An op on its way.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclAsyncReduceOp_t {
    /// Whose.
    pub comm: *mut pcclComm_t,
    /// Its tag.
    pub tag: u64,
}

/// A tensor of the shared state.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclTensorInfo_t {
    /// Its name, unique among those of the state; UTF-8.
    pub name: *const c_char,
    /// First element.
    pub data: *mut c_void,
    /// Elements.
    pub count: usize,
    /// Element type.
    pub datatype: MaybeUninit<pcclDataType_t>,
    /// Where it is.
    pub device_type: MaybeUninit<pcclDeviceType_t>,
    /// Whether its content may differ from peer to peer: it is then neither compared nor sent.
    pub allow_content_inequality: bool,
}

/// Named tensors that the group keeps bit-identical.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclSharedState_t {
    /// Raised by the caller by exactly one before each synchronization; a synchronization sets it to what was agreed on.
    pub revision: u64,
    /// Tensors.
    pub count: usize,
    /// The tensors.
    pub infos: *mut pcclTensorInfo_t,
}

/// How a synchronization went.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclSharedStateSyncInfo_t {
    /// Tensor bytes sent; 0 if all agreed.
    pub tx_bytes: u64,
    /// Tensor bytes received; 0 if this peer had the content that won.
    pub rx_bytes: u64,
}

/// A master in this process.
pub struct pcclMasterInstanceState_t {
    _opaque: [u8; 0],
}

/// A master in this process.
pub type pcclMasterInstance_t = pcclMasterInstanceState_t;

/// How the library was built.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct pcclBuildInfo_t {
    /// Whether tensors in the memory of CUDA devices can be synchronized: the driver, `libcuda.so.1`, is there.
    pub has_cuda_support: bool,
}
