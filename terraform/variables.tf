# Names, defaults and accepted values are those of the template's parameters, in small letters.

variable "name" {
  description = "The name of the function and of all that belongs to it. One module, one name."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,37}$", var.name))
    error_message = "name must be letters, digits and hyphens, begin with a letter and have at most 38 characters."
  }
}

# The function's code.

variable "code_path" {
  description = "The zip of a release, or of `make package`, on this machine. Either this or a bucket."
  type        = string
  default     = ""
}

variable "code_s3_bucket" {
  description = "The bucket, in this Region, in which the zip lies."
  type        = string
  default     = ""

  validation {
    condition     = (var.code_path == "") != (var.code_s3_bucket == "")
    error_message = "Give either code_path, or code_s3_bucket and code_s3_key."
  }
}

variable "code_s3_key" {
  description = "The key of the zip in that bucket. Each version needs a key of its own, or an update is not seen."
  type        = string
  default     = ""

  validation {
    condition     = (var.code_s3_bucket == "") == (var.code_s3_key == "")
    error_message = "code_s3_bucket and code_s3_key go together."
  }
}

variable "architecture" {
  description = "What the zip was built for: x86_64 or arm64."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture must be x86_64 or arm64."
  }
}

variable "code_signing_config_arn" {
  description = "A code signing configuration of yours that the zip has to satisfy."
  type        = string
  default     = null
}

# What follows what.

variable "bindings" {
  description = <<-EOT
    The hostnames and the target groups that follow them, each under a key that names its alarms. The target groups are
    of target type ip; they exist, or are made in the same configuration.

    - `hostname`: the name to follow.
    - `target_group_arn`: the target group.
    - `load_balancer_arn`: the load balancer in front of it, by whose metric the alarm on no healthy target then goes.
    - `port`: the port to register addresses on; without one, the target group's own.
    - `ownership`: `exclusive` - the target group holds what DNS says and nothing else; `shared` - targets of others stay.
    - `deregister_after_seconds`: how long an address must be missing from DNS before its target goes. Otherwise by the
      kind of the hostname.
    - `lookups`: how many answers one run collects, for names whose answers hold only some of the addresses. Otherwise by
      the kind of the hostname.

    Bindings of one target group must agree on `ownership` and `deregister_after_seconds`.
  EOT
  type = map(object({
    hostname                 = string
    target_group_arn         = string
    load_balancer_arn        = optional(string, "")
    port                     = optional(number)
    ownership                = optional(string, "shared")
    deregister_after_seconds = optional(number)
    lookups                  = optional(number)
  }))
  default = {}

  validation {
    condition     = length(var.bindings) > 0 || var.discover_by_tags
    error_message = "bindings is empty: there is nothing to follow. Only with discover_by_tags may it be."
  }

  validation {
    condition     = alltrue([for key in keys(var.bindings) : can(regex("^[A-Za-z0-9-]{1,64}$", key))])
    error_message = "The keys of bindings must be letters, digits and hyphens."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) : length(binding.hostname) <= 253 && can(regex(
        "^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.)+[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\\.?$",
        binding.hostname
      ))
    ])
    error_message = "hostname must be a full hostname such as orders.c9akciq32abc.eu-west-1.rds.amazonaws.com."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) : can(regex(
        "^arn:aws(-[a-z]+)*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:targetgroup/[A-Za-z0-9-]{1,32}/[A-Za-z0-9]+$",
        binding.target_group_arn
      ))
    ])
    error_message = "target_group_arn must be the ARN of a target group, arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) :
      binding.port == null ? true : binding.port >= 1 && binding.port <= 65535 && floor(binding.port) == binding.port
    ])
    error_message = "port must be 1 to 65535."
  }

  validation {
    condition     = alltrue([for binding in values(var.bindings) : contains(["exclusive", "shared"], binding.ownership)])
    error_message = "ownership must be exclusive or shared."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) :
      binding.deregister_after_seconds == null ? true : can(regex("^(0|[1-9][0-9]{0,5})$", tostring(binding.deregister_after_seconds)))
    ])
    error_message = "deregister_after_seconds must be 0 to 999999."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) :
      binding.lookups == null ? true : can(regex("^([1-9]|[1-4][0-9]|50)$", tostring(binding.lookups)))
    ])
    error_message = "lookups must be 1 to 50."
  }
}

variable "discover_by_tags" {
  description = "Whether the function also follows what target groups of the account and Region say by their tag nlb-hostname-targets:hostname."
  type        = bool
  default     = false
}

variable "database_arns" {
  description = "ARNs of DB instances, DB clusters and RDS Proxies. At their RDS events alone the function then watches DNS every second until it has moved. Otherwise at those of the categories failover and availability of every database in the Region."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for arn in var.database_arns :
      can(regex("^arn:aws(-[a-z]+)*:rds:[a-z0-9-]+:[0-9]{12}:(db|cluster|db-proxy):[A-Za-z0-9-]{1,63}$", arn))
    ])
    error_message = "database_arns must be ARNs such as arn:aws:rds:eu-west-1:123456789012:db:orders."
  }

  validation {
    # EventBridge takes event patterns of 2,048 characters.
    condition     = length(join(",", var.database_arns)) <= 1700
    error_message = "database_arns may have 1,700 characters together, some 25 ARNs. Put the others into another module."
  }
}

# Who is told.

variable "alarm_topic_arn" {
  description = "A topic of yours that CloudWatch may publish to. Without one, alarms only show in the console."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws(-[a-z]+)*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256})?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn must be the ARN of a standard SNS topic."
  }
}

# The function in a VPC.

variable "vpc_id" {
  description = "The VPC of function_subnet_ids. For the function's security group."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(vpc-[0-9a-f]{8,17})?$", var.vpc_id))
    error_message = "vpc_id must be a VPC's id, vpc-...."
  }
}

variable "function_subnet_ids" {
  description = "Subnets to run the function in, for names that only a VPC resolves. It then needs an interface endpoint of elasticloadbalancing there, or NAT."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.function_subnet_ids : can(regex("^subnet-[0-9a-f]{8,17}$", id))])
    error_message = "function_subnet_ids must be the ids of subnets, subnet-...."
  }

  validation {
    condition     = length(var.function_subnet_ids) == 0 || var.vpc_id != ""
    error_message = "function_subnet_ids needs vpc_id, in which a security group is made."
  }
}

# Permissions and encryption.

variable "role_arn" {
  description = "A role of your own, with which the function acts and its schedule invokes it. It must be known when Terraform plans."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws(-[a-z]+)*:iam::[0-9]{12}:role/[\\w+=,.@/-]+)?$", var.role_arn))
    error_message = "role_arn must be the ARN of a role."
  }
}

variable "permissions_boundary_arn" {
  description = "Bounds the role that is made."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws(-[a-z]+)*:iam::([0-9]{12}|aws):policy/[\\w+=,.@/-]+)?$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of a policy."
  }
}

variable "kms_key_arn" {
  description = "A KMS key for the log group. Its policy must admit logs.REGION.amazonaws.com."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(arn:aws(-[a-z]+)*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+)?$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }
}

variable "tags" {
  description = "Tags of all that is made, besides Application=nlb-hostname-targets."
  type        = map(string)
  default     = {}
}

# How it looks.

variable "poll_interval_seconds" {
  description = "1 to 60. The function asks DNS so often, at any time and without an event, and so runs all the time. 0 asks once a minute."
  type        = number
  default     = 0

  validation {
    condition     = can(regex("^([0-9]|[1-5][0-9]|60)$", tostring(var.poll_interval_seconds)))
    error_message = "poll_interval_seconds must be 0 to 60."
  }
}

variable "allowed_cidrs" {
  description = "Networks that addresses must lie in. Without any, those that a Network Load Balancer accepts."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "allowed_cidrs must be networks such as 10.0.1.0/24."
  }
}

variable "allowed_hostnames" {
  description = "Names, and suffixes such as *.rds.amazonaws.com, that may be followed. Without any, all."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.discover_by_tags || length(var.allowed_hostnames) > 0
    error_message = "discover_by_tags needs allowed_hostnames. Otherwise whoever may tag a target group sends its clients anywhere."
  }

  validation {
    condition     = alltrue([for name in var.allowed_hostnames : can(regex("^[A-Za-z0-9_.*-]+$", name))])
    error_message = "allowed_hostnames must be hostnames or suffixes such as *.rds.amazonaws.com."
  }
}

variable "dns_servers" {
  description = "Name servers, tried until one answers: IP, IP:port or [IPv6]:port. Without any, the system's."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for server in var.dns_servers : can(regex("^[0-9A-Fa-f.:\\[\\]]+$", server))])
    error_message = "dns_servers must be addresses, with or without a port."
  }
}

variable "log_retention_days" {
  description = "After these days CloudWatch Logs deletes a log line."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a number of days that CloudWatch Logs knows, such as 7, 30, 90 or 365."
  }
}
