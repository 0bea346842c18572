// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Names of contracts on chain 138: clients ask here instead of carrying addresses with them.
contract Registry {
    /// Who may register.
    address public owner;

    mapping(bytes32 => address) private entries;

    event Registered(bytes32 indexed name, address indexed at);
    event OwnerChanged(address indexed before, address indexed next);

    error NotOwner(address caller);
    error NoOwner();

    modifier onlyOwner() {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        _;
    }

    constructor(address first) {
        if (first == address(0)) revert NoOwner();
        owner = first;
        emit OwnerChanged(address(0), first);
    }

    /// Points a name to a contract; zero takes it away.
    function register(bytes32 name, address at) external onlyOwner {
        entries[name] = at;
        emit Registered(name, at);
    }

    /// Where the contract of this name is, or zero.
    function lookup(bytes32 name) external view returns (address) {
        return entries[name];
    }

    /// Hands the registry over.
    function transfer(address next) external onlyOwner {
        if (next == address(0)) revert NoOwner();
        emit OwnerChanged(owner, next);
        owner = next;
    }
}
