"""What a call asks of IAM: the actions, on which resources, with which condition keys.

A call may ask for several. RunInstances needs permission for each resource that it uses or creates,
for the tags that it sets, and for the role that it passes. A call that is not in this module raises
`Unjudged`: only the owner of the cloud may make it.

Which action has which resources and keys:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagementiam.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_servicequotas.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsfreetier.html
`localcloud.s3` has those of S3.
What RunInstances needs:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-runinstances
Tags at a launch:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/concepts-spot-instances-request-tags.html
What a call sets, as a condition key:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/iam-policies-for-amazon-ec2.html#attribute-key
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instances import Instance
from moto.ec2.models.subnets import Subnet

from localcloud import s3
from localcloud.policies import ATTRIBUTE_KEY, Access, Unjudged, Value

Keys = dict[str, Value]

# Actions of other services than EC2 that have no resource.
WITHOUT_RESOURCE = frozenset({"freetier:GetAccountPlanState", "servicequotas:GetServiceQuota"})

# Action of IAM that anybody but the owner may make -> the ARN of its resource.
OF_IAM: dict[str, Callable[[Call], str]] = {
    "iam:GetRole": lambda call: _role_arn(call.form.get("RoleName", "")),
    "iam:SimulatePrincipalPolicy": lambda call: call.form.get("PolicySourceArn", ""),
}

# Action of EC2 -> parameter with ids -> the kind of resource that they name.
BY_ID: dict[str, dict[str, str]] = {
    "AttachVolume": {"InstanceId": "instance", "VolumeId": "volume"},
    "CancelSpotInstanceRequests": {"SpotInstanceRequestId": "spot-instances-request"},
    "DescribeInstanceAttribute": {"InstanceId": "instance"},
    "DetachVolume": {"InstanceId": "instance", "VolumeId": "volume"},
    "GetConsoleOutput": {"InstanceId": "instance"},
    "ModifyInstanceAttribute": {"InstanceId": "instance", "GroupId": "security-group"},
    "ModifyVolume": {"VolumeId": "volume"},
    "RebootInstances": {"InstanceId": "instance"},
    "ReleaseAddress": {"AllocationId": "elastic-ip"},
    "StartInstances": {"InstanceId": "instance"},
    "StopInstances": {"InstanceId": "instance"},
    "TerminateInstances": {"InstanceId": "instance"},
}
# Action of EC2 that sets attributes -> the kind of resource that has condition keys of them.
SETS_ATTRIBUTES = {"ModifyInstanceAttribute": "instance", "ModifyVolume": "volume"}
# Their parameters that are no attributes.
NO_ATTRIBUTES = frozenset({"Action", "DryRun", "InstanceId", "Version", "VolumeId"})
# Describe* actions with resource-level permissions; all others have none.
DESCRIBE_BY_ID = frozenset((
    "DescribeCapacityBlockExtensionHistory", "DescribeCapacityBlockExtensionOfferings",
    "DescribeClientVpnAuthorizationRules", "DescribeClientVpnConnections",
    "DescribeClientVpnEndpoints", "DescribeClientVpnRoutes", "DescribeClientVpnTargetNetworks",
    "DescribeFleetHistory", "DescribeFleetInstances", "DescribeFpgaImageAttribute",
    "DescribeImageAttribute", "DescribeInstanceAttribute", "DescribeSecurityGroupReferences",
    "DescribeSnapshotAttribute", "DescribeSpotFleetInstances", "DescribeSpotFleetRequestHistory",
    "DescribeVolumeAttribute", "DescribeVpcAttribute", "DescribeVpcEndpointAssociations",
    "DescribeVpcEndpointServicePermissions",
))  # fmt: skip
SPOT = "spot-instances-request"
# The beginning of an id -> the kind of resource.
KINDS = {
    "ami": "image",
    "eipalloc": "elastic-ip",
    "eni": "network-interface",
    "i": "instance",
    "key": "key-pair",
    "sg": "security-group",
    "sir": SPOT,
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
}
# The parameters of RunInstances of which it is known here that they name no other resource.
LAUNCH = frozenset((
    "Action", "BlockDeviceMapping", "ClientToken", "CpuOptions", "CreditSpecification",
    "DisableApiStop", "DisableApiTermination", "DryRun", "EbsOptimized", "HibernationOptions",
    "IamInstanceProfile", "ImageId", "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions", "InstanceType", "KeyName", "MaxCount", "MetadataOptions", "MinCount",
    "Monitoring", "NetworkInterface", "Placement.AvailabilityZone", "Placement.Tenancy",
    "PrivateIpAddress", "SecurityGroupId", "SubnetId", "TagSpecification", "UserData", "Version",
))  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of an API.

    Args:
        service: such as `ec2`.
        action: the API's name of it, such as `RunInstances`.
        region: of the request.
        form: its parameters, where the protocol has a form: `InstanceId.1`.
        body: its parameters, where the protocol has JSON.
        path: of the request, where the protocol has bucket and key there.
        headers: those of AWS, with their names in small letters.
        source: the address from which it comes.
    """

    service: str
    action: str
    region: str
    form: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def name(self) -> str:
        """The name as a policy has it: `ec2:RunInstances`."""
        return f"{self.service}:{self.action}"

    def under(self, name: str) -> dict[str, str]:
        """Return the parameters below a name: `Ebs.Encrypted` of `Ebs` is `Encrypted`."""
        return _under(self.form, name)

    def listed(self, name: str) -> list[dict[str, str]]:
        """Return the elements of a list of structures, in order."""
        return _listed(self.form, name)

    def values(self, name: str) -> list[str]:
        """Return the values of a parameter that may be a list."""
        return _values(self.form, name)


def accesses(call: Call) -> list[Access]:
    """Return what a call asks for, in the order in which it is judged.

    Raises:
        Unjudged: this module does not know the call, or not all of it.
    """
    if call.name == "sts:GetCallerIdentity":
        return []  # needs no permission, and cannot be denied
    if call.service == "ec2":
        made = _of_ec2(call)
    elif call.name in ("ssm:GetParameter", "ssm:GetParameters"):
        made = _parameters(call)
    elif call.service == "s3":
        made = s3.accesses(call)
    elif call.name in OF_IAM:
        made = iter([Access(call.name, OF_IAM[call.name](call))])
    elif call.name in WITHOUT_RESOURCE:
        made = iter([Access(call.name)])
    else:
        raise Unjudged(f"call: {call.name}, for anybody but the owner")
    found = [replace(access, keys={**_of_request(call, access), **access.keys}) for access in made]
    if not found:
        raise Unjudged(f"call: {call.name} without a resource")
    return found


def _of_request(call: Call, access: Access) -> Keys:
    """Return the keys that every access of a call has."""
    keys: Keys = {"aws:RequestedRegion": call.region}
    if access.action.startswith("ec2:"):
        keys["ec2:Region"] = call.region
    return keys


def _parameters(call: Call) -> Iterator[Access]:
    """Yield the parameters of Systems Manager; the public ones belong to no account."""
    given = json.loads(call.body)
    for name in given.get("Names", [given.get("Name")]):
        account = "" if name.startswith("/aws/service/") else DEFAULT_ACCOUNT_ID
        path = name.removeprefix("/")
        yield Access(call.name, f"arn:aws:ssm:{call.region}:{account}:parameter/{path}")


# -- EC2 -------------------------------------------------------------------------------------------


def _of_ec2(call: Call) -> Iterable[Access]:
    if call.action in _SPECIAL:
        return _SPECIAL[call.action](call)
    if call.action in BY_ID:
        return _by_id(call)
    if call.action.startswith("Describe") and call.action not in DESCRIBE_BY_ID:
        return [Access(call.name)]
    raise Unjudged(f"call: {call.name}, for anybody but the owner")


def _by_id(call: Call) -> Iterator[Access]:
    """Yield the resources that a call names, with what it sets of them."""
    for parameter, kind in BY_ID[call.action].items():
        set_ = _attributes(call) if SETS_ATTRIBUTES.get(call.action) == kind else {}
        for name in call.values(parameter):
            keys = {**of_resource(kind, name, call.region), **set_}
            yield Access(call.name, arn(kind, name, call.region), keys)


def _attributes(call: Call) -> Keys:
    """Return the attributes that a call sets: those with a plain value, or with a Value only.

    Raises:
        Unjudged: the call names the attribute in a parameter. AWS does not say which keys it has.
    """
    if "Attribute" in call.form:
        raise Unjudged(f"call: {call.name} with Attribute")
    given = {name: name.partition(".") for name in call.form}
    return {
        f"{ATTRIBUTE_KEY}{start}": call.form[name]
        for name, (start, _, rest) in given.items()
        if start not in NO_ATTRIBUTES and rest in ("", "Value")
    }


def _launch(call: Call) -> Iterator[Access]:
    """Yield what RunInstances uses and creates, then its tags and the role that it passes."""
    tops = {name.split(".")[0] for name in call.form}
    placed = {name for name in call.form if name.startswith("Placement.")}
    if unknown := ((tops - {"Placement"}) | placed) - LAUNCH:
        raise Unjudged(f"call: {call.name} with {', '.join(sorted(unknown))}")
    made = _created(call)
    for kind, several in made.items():
        for keys in several:
            yield Access(call.name, arn(kind, "*", call.region), keys)
    for kind, name in _used(call):
        yield Access(call.name, arn(kind, name, call.region), of_resource(kind, name, call.region))
    for specification in call.listed("TagSpecification"):
        kind = specification["ResourceType"]
        for keys in made.get(kind) or [_request_tags(_listed(specification, "Tag"))]:
            tagged: Keys = {**keys, "ec2:CreateAction": call.action}
            yield Access("ec2:CreateTags", arn(kind, "*", call.region), tagged)
    profile = _profile(call)
    for role in profile.roles if profile else ():
        yield Access("iam:PassRole", role.arn, {"iam:PassedToService": "ec2.amazonaws.com"})


def _created(call: Call) -> dict[str, list[Keys]]:
    """Return the keys of what RunInstances creates, by kind."""
    form = call.form
    backend = _backend(call.region)
    tags = {
        specification["ResourceType"]: _request_tags(_listed(specification, "Tag"))
        for specification in call.listed("TagSpecification")
    }
    subnet = _subnet(backend, _subnet_id(call))
    zone: Keys = {"ec2:AvailabilityZone": subnet.availability_zone} if subnet else {}
    profile = _profile(call)
    metadata = call.under("MetadataOptions")
    instance: Keys = {
        "ec2:InstanceType": form.get("InstanceType", ""),
        "ec2:InstanceMarketType": form.get("InstanceMarketOptions.MarketType", "on-demand"),
        "ec2:MetadataHttpEndpoint": metadata.get("HttpEndpoint", "enabled"),
        "ec2:MetadataHttpPutResponseHopLimit": metadata.get("HttpPutResponseHopLimit", "1"),
        "ec2:MetadataHttpTokens": metadata.get("HttpTokens", "optional"),
        "ec2:RootDeviceType": "ebs",
        **({"ec2:InstanceProfile": profile.arn} if profile else {}),
    }
    volumes: list[Keys] = [
        {
            "ec2:Encrypted": ebs.get("Encrypted", "false"),
            **({"ec2:VolumeSize": ebs["VolumeSize"]} if "VolumeSize" in ebs else {}),
            **({"ec2:VolumeType": ebs["VolumeType"]} if "VolumeType" in ebs else {}),
        }
        for mapping in call.listed("BlockDeviceMapping")
        if (ebs := _under(mapping, "Ebs"))
    ]
    network: Keys = {}
    if subnet:
        network = {
            "ec2:Subnet": arn("subnet", subnet.id, call.region),
            "ec2:Vpc": arn("vpc", subnet.vpc_id, call.region),
        }
    interfaces: list[Keys] = [
        {
            **network,
            **(
                {"ec2:AssociatePublicIpAddress": given["AssociatePublicIpAddress"]}
                if "AssociatePublicIpAddress" in given
                else {}
            ),
        }
        for given in call.listed("NetworkInterface") or [{}]
        if "NetworkInterfaceId" not in given
    ]
    # Without a mapping, the image's root volume is created.
    created = {
        "instance": [instance],
        "volume": volumes or [{"ec2:Encrypted": "false"}],
        "network-interface": interfaces,
    }
    made = {
        kind: [{**zone, **keys, **tags.get(kind, {})} for keys in several]
        for kind, several in created.items()
    }
    if SPOT in tags:  # EC2 judges a request for a spot instance only where it gets tags
        made[SPOT] = [tags[SPOT]]
    return made


def _used(call: Call) -> Iterator[tuple[str, str]]:
    """Yield the kinds and names of what RunInstances uses."""
    form, interfaces = call.form, call.listed("NetworkInterface")
    yield "image", form.get("ImageId", "")
    subnet = _subnet_id(call)
    if subnet:
        yield "subnet", subnet
    elif not any("NetworkInterfaceId" in given for given in interfaces):
        raise Unjudged(f"call: {call.name} without a subnet")
    groups = [name for given in interfaces for name in _values(given, "SecurityGroupId")]
    groups += call.values("SecurityGroupId")
    made = _subnet(_backend(call.region), subnet)
    if not groups and made:  # the default group of the VPC
        default = _backend(call.region).get_default_security_group(made.vpc_id)
        groups = [default.id] if default else []
    for group in dict.fromkeys(groups):
        yield "security-group", group
    for given in interfaces:
        if "NetworkInterfaceId" in given:
            yield "network-interface", given["NetworkInterfaceId"]
    if "KeyName" in form:
        yield "key-pair", form["KeyName"]
    for mapping in call.listed("BlockDeviceMapping"):
        if snapshot := mapping.get("Ebs.SnapshotId"):
            yield "snapshot", snapshot


def _subnet_id(call: Call) -> str:
    given = [call.form.get("SubnetId", "")]
    given += [interface.get("SubnetId", "") for interface in call.listed("NetworkInterface")]
    return next(filter(None, given), "")


def _profile(call: Call) -> Any:
    """Return the instance profile of a launch; None: there is none."""
    given = call.under("IamInstanceProfile")
    profiles = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"].instance_profiles.values()
    return next(
        (
            profile
            for profile in profiles
            if given and (given.get("Name") == profile.name or given.get("Arn") == profile.arn)
        ),
        None,
    )


def _tag(call: Call) -> Iterator[Access]:
    """Yield the resources that are tagged, or lose tags."""
    tags = _request_tags(call.listed("Tag"))
    for name in call.values("ResourceId"):
        kind = kind_of(name)
        keys = {**of_resource(kind, name, call.region), **tags}
        yield Access(call.name, arn(kind, name, call.region), keys)


def _allocate(call: Call) -> Iterator[Access]:
    specifications = call.listed("TagSpecification")
    tags = [_request_tags(_listed(specification, "Tag")) for specification in specifications]
    new = arn("elastic-ip", "*", call.region)
    yield Access(call.name, new, {"ec2:Domain": "vpc", **(tags[0] if tags else {})})
    for keys in tags:
        yield Access("ec2:CreateTags", new, {**keys, "ec2:CreateAction": call.action})


def _associate(call: Call) -> Iterator[Access]:
    """Yield the address, the interface, and the interface's instance.

    The reference names all three as optional. It does not say whether EC2 looks at the instance
    when the call names its interface: here it does, so that a policy that works here works there.
    """
    backend = _backend(call.region)
    wanted = [("elastic-ip", name) for name in call.values("AllocationId")]
    interface = backend.enis.get(call.form.get("NetworkInterfaceId", ""))
    instance = call.form.get("InstanceId", "")
    if interface:
        wanted.append(("network-interface", interface.id))
        instance = interface.instance.id if interface.instance else instance
    if instance:
        wanted.append(("instance", instance))
    for kind, name in wanted:
        keys = of_resource(kind, name, call.region)
        yield Access(call.name, arn(kind, name, call.region), keys)


def _disassociate(call: Call) -> Iterator[Access]:
    association = call.form.get("AssociationId")
    for address in _backend(call.region).addresses:
        if association and address.association_id == association:
            name = address.allocation_id
            keys = of_resource("elastic-ip", name, call.region)
            yield Access(call.name, arn("elastic-ip", name, call.region), keys)


_SPECIAL: dict[str, Callable[[Call], Iterable[Access]]] = {
    "AllocateAddress": _allocate,
    "AssociateAddress": _associate,
    "CreateTags": _tag,
    "DeleteTags": _tag,
    "DisassociateAddress": _disassociate,
    "RunInstances": _launch,
}


# -- resources -------------------------------------------------------------------------------------


def arn(kind: str, name: str, region: str) -> str:
    """Return the ARN of a resource of EC2; images and snapshots belong to no account there."""
    account = "" if kind in ("image", "snapshot") else DEFAULT_ACCOUNT_ID
    return f"arn:aws:ec2:{region}:{account}:{kind}/{name}"


def _role_arn(name: str) -> str:
    """Return the ARN of a role, which has its path; without such a role, as if it had none."""
    roles = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"].roles.values()
    found = (str(role.arn) for role in roles if role.name == name)
    return next(found, f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/{name}")


def kind_of(name: str) -> str:
    """Return the kind of resource that an id names. Raises Unjudged."""
    kind = KINDS.get(name.rpartition("-")[0])
    if kind is None:
        raise Unjudged(f"call: a resource {name}")
    return kind


def of_resource(kind: str, name: str, region: str) -> Keys:
    """Return the condition keys of a resource that exists; of any other, none."""
    backend = _backend(region)
    tagged = name
    if kind == "key-pair":
        pair = backend.key_pairs.get(name)
        tagged = pair.id if pair else ""
    tags = backend.tags.get(tagged, {})
    found: Keys = {
        f"{prefix}:ResourceTag/{key}": value
        for key, value in tags.items()
        for prefix in ("aws", "ec2")
    }
    more = _OF_KIND.get(kind)
    return found | more(backend, name) if more else found


def _of_image(backend: EC2Backend, name: str) -> Keys:
    """Return an image's keys; its owner is the alias where there is one."""
    image = backend.amis.get(name)
    if image is None:
        return {}
    return {
        "ec2:ImageID": image.id,
        "ec2:ImageType": image.image_type,
        "ec2:Owner": image.owner_alias or image.owner_id,
        "ec2:Public": str(image.is_public).lower(),
        "ec2:RootDeviceType": image.root_device_type,
    }


def _of_instance(backend: EC2Backend, name: str) -> Keys:
    instance = next((one for one in backend.all_instances() if one.id == name), None)
    if instance is None:
        return {}
    profile = profile_arn(instance)
    return {
        "ec2:AvailabilityZone": instance.availability_zone,
        "ec2:InstanceID": instance.id,
        "ec2:InstanceType": instance.instance_type,
        "ec2:RootDeviceType": "ebs",
        **({"ec2:InstanceProfile": profile} if profile else {}),
    }


def profile_arn(instance: Instance) -> str:
    """Return the ARN of an instance's profile; empty: it has none."""
    return str((instance.iam_instance_profile or {}).get("Arn", ""))


def _of_interface(backend: EC2Backend, name: str) -> Keys:
    interface = backend.enis.get(name)
    if interface is None:
        return {}
    region, subnet = backend.region_name, interface.subnet
    return {
        "ec2:AvailabilityZone": subnet.availability_zone,
        "ec2:Subnet": arn("subnet", subnet.id, region),
        "ec2:Vpc": arn("vpc", subnet.vpc_id, region),
    }


def _subnet(backend: EC2Backend, name: str) -> Subnet | None:
    return next((by_id[name] for by_id in backend.subnets.values() if name in by_id), None)


def _of_subnet(backend: EC2Backend, name: str) -> Keys:
    subnet = _subnet(backend, name)
    if subnet is None:
        return {}
    vpc = arn("vpc", subnet.vpc_id, backend.region_name)
    return {"ec2:AvailabilityZone": subnet.availability_zone, "ec2:Vpc": vpc}


def _of_group(backend: EC2Backend, name: str) -> Keys:
    group = backend.get_security_group_from_id(name)
    return {"ec2:Vpc": arn("vpc", group.vpc_id, backend.region_name)} if group else {}


def _of_volume(backend: EC2Backend, name: str) -> Keys:
    volume = backend.volumes.get(name)
    if volume is None:
        return {}
    return {
        "ec2:AvailabilityZone": volume.zone.name,
        "ec2:Encrypted": str(volume.encrypted).lower(),
        "ec2:VolumeSize": str(volume.size),
        "ec2:VolumeType": volume.volume_type,
    }


_OF_KIND: dict[str, Callable[[EC2Backend, str], Keys]] = {
    "elastic-ip": lambda *_: {"ec2:Domain": "vpc"},
    "image": _of_image,
    "instance": _of_instance,
    "key-pair": lambda _, name: {"ec2:KeyPairName": name},
    "network-interface": _of_interface,
    "security-group": _of_group,
    "subnet": _of_subnet,
    "volume": _of_volume,
}


def _backend(region: str) -> EC2Backend:
    return ec2_backends[DEFAULT_ACCOUNT_ID][region]


# -- the parameters of a form ----------------------------------------------------------------------


def _under(form: Mapping[str, str], name: str) -> dict[str, str]:
    start = f"{name}."
    return {key[len(start) :]: value for key, value in form.items() if key.startswith(start)}


def _listed(form: Mapping[str, str], name: str) -> list[dict[str, str]]:
    below = _under(form, name)
    numbers = sorted({key.split(".")[0] for key in below}, key=int)
    return [_under(below, number) for number in numbers]


def _values(form: Mapping[str, str], name: str) -> list[str]:
    below = _under(form, name)
    single = [form[name]] if name in form else []
    return single + [below[number] for number in sorted(below, key=int) if number.isdigit()]


def _request_tags(tags: Iterable[Mapping[str, str]]) -> Keys:
    given = {tag["Key"]: tag.get("Value", "") for tag in tags}
    keys: Keys = {f"aws:RequestTag/{key}": value for key, value in given.items()}
    return {**keys, "aws:TagKeys": tuple(given)} if given else keys
