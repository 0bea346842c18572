// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Blocks of chain 138, written down on Mainnet: whoever trusts Mainnet can tell a rewritten history of chain 138.
contract CheckpointAnchor {
    /// The chain whose blocks are written down.
    uint256 public constant CHAIN_ID = 138;

    /// Who may write.
    address public owner;

    /// The newest block that was written down.
    uint256 public latest;

    mapping(uint256 => bytes32) private hashes;

    event Anchored(uint256 indexed number, bytes32 indexed blockHash);

    error NotOwner(address caller);
    error NoOwner();
    error NotNewer(uint256 number, uint256 latest);

    constructor(address first) {
        if (first == address(0)) revert NoOwner();
        owner = first;
    }

    /// Writes down a block, which must be newer than all before: what is written stays.
    function anchor(uint256 number, bytes32 blockHash) external {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        if (number <= latest) revert NotNewer(number, latest);
        latest = number;
        hashes[number] = blockHash;
        emit Anchored(number, blockHash);
    }

    /// The hash of a block that was written down, or zero.
    function hashOf(uint256 number) external view returns (bytes32) {
        return hashes[number];
    }
}
