# The function, and what it may do. What invokes it is in triggers.tf, what tells of trouble in alarms.tf.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  tags   = merge({ Application = "nlb-hostname-targets" }, var.tags)
  in_vpc = length(var.function_subnet_ids) > 0

  # A field without a value goes: the function then goes by the kind of the hostname, and refuses null.
  bindings = [for binding in values(var.bindings) : {
    for field, value in binding : field => value if value != null && field != "load_balancer_arn"
  }]

  role_arn = var.role_arn == "" ? one(aws_iam_role.function[*].arn) : var.role_arn
}

resource "aws_lambda_function" "this" {
  function_name    = "${var.name}-hostname-targets"
  description      = "Keeps IP target groups in step with DNS hostnames"
  role             = local.role_arn
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  filename         = var.code_path == "" ? null : var.code_path
  source_code_hash = var.code_path == "" ? null : filebase64sha256(var.code_path)
  s3_bucket        = var.code_path == "" ? var.code_s3_bucket : null
  s3_key           = var.code_path == "" ? var.code_s3_key : null
  memory_size      = 128
  # It bounds a watch. All else ends by itself.
  timeout                 = 300
  code_signing_config_arn = var.code_signing_config_arn
  tags                    = local.tags

  environment {
    # Of these an empty one counts as absent.
    variables = {
      BINDINGS              = length(local.bindings) == 0 ? "" : jsonencode(local.bindings)
      DISCOVERY             = var.discover_by_tags ? "tags" : "off"
      ALLOWED_HOSTNAMES     = join(",", var.allowed_hostnames)
      DNS_SERVERS           = join(",", var.dns_servers)
      ALLOWED_CIDRS         = join(",", var.allowed_cidrs)
      METRICS               = local.in_vpc ? "emf" : "cloudwatch"
      POLL_INTERVAL_SECONDS = var.poll_interval_seconds
    }
  }

  logging_config {
    log_group             = aws_cloudwatch_log_group.this.name
    log_format            = "JSON"
    application_log_level = "INFO"
  }

  dynamic "vpc_config" {
    for_each = local.in_vpc ? [1] : []
    content {
      subnet_ids         = var.function_subnet_ids
      security_group_ids = aws_security_group.function[*].id
    }
  }

  # Lambda makes the network interfaces with it.
  depends_on = [aws_iam_role_policy.function]

  lifecycle {
    precondition {
      condition     = length(jsonencode(local.bindings)) <= 3500
      error_message = "A function takes about 20 bindings, which are 3,500 characters of its environment. Put the others into another module, or use discover_by_tags."
    }
  }
}

resource "aws_lambda_function_event_invoke_config" "this" {
  function_name = aws_lambda_function.this.function_name
  # The next minute is the retry, also of a watch that failed: by then DNS has moved, or the failure has stayed.
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}-hostname-targets"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn == "" ? null : var.kms_key_arn
  tags              = local.tags
}

resource "aws_iam_role" "function" {
  count = var.role_arn == "" ? 1 : 0

  name                 = "${var.name}-hostname-targets"
  description          = "What the function ${var.name}-hostname-targets may do"
  permissions_boundary = var.permissions_boundary_arn == "" ? null : var.permissions_boundary_arn
  assume_role_policy   = data.aws_iam_policy_document.function_trust.json
  tags                 = local.tags
}

resource "aws_iam_role_policy" "function" {
  count = var.role_arn == "" ? 1 : 0

  name   = "function"
  role   = one(aws_iam_role.function[*].name)
  policy = data.aws_iam_policy_document.function.json
}

data "aws_iam_policy_document" "function_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }

  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

data "aws_iam_policy_document" "function" {
  # IAM knows nothing finer than * for these. Those of load balancers and listeners are for a check.
  statement {
    sid = "Look"
    actions = [
      "elasticloadbalancing:DescribeListeners",
      "elasticloadbalancing:DescribeLoadBalancerAttributes",
      "elasticloadbalancing:DescribeLoadBalancers",
      "elasticloadbalancing:DescribeTags",
      "elasticloadbalancing:DescribeTargetGroupAttributes",
      "elasticloadbalancing:DescribeTargetGroups",
      "elasticloadbalancing:DescribeTargetHealth",
    ]
    resources = ["*"]
  }

  # Its state is in tags of the target group. No other tag may it set or remove; where a request has no tags, the
  # condition holds.
  dynamic "statement" {
    for_each = length(var.bindings) > 0 ? [1] : []
    content {
      sid = "Change"
      actions = [
        "elasticloadbalancing:AddTags",
        "elasticloadbalancing:DeregisterTargets",
        "elasticloadbalancing:RegisterTargets",
        "elasticloadbalancing:RemoveTags",
      ]
      resources = distinct([for binding in values(var.bindings) : binding.target_group_arn])
      condition {
        test     = "ForAllValues:StringLike"
        variable = "aws:TagKeys"
        values   = ["nlb-hostname-targets:*"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.discover_by_tags ? [1] : []
    content {
      sid       = "Discover"
      actions   = ["tag:GetResources"]
      resources = ["*"]
    }
  }

  dynamic "statement" {
    for_each = var.discover_by_tags ? [1] : []
    content {
      sid = "ChangeTagged"
      actions = [
        "elasticloadbalancing:AddTags",
        "elasticloadbalancing:DeregisterTargets",
        "elasticloadbalancing:RegisterTargets",
        "elasticloadbalancing:RemoveTags",
      ]
      resources = [
        "arn:${data.aws_partition.current.partition}:elasticloadbalancing:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:targetgroup/*/*",
      ]
      condition {
        test     = "Null"
        variable = "aws:ResourceTag/nlb-hostname-targets:hostname"
        values   = ["false"]
      }
      condition {
        test     = "ForAllValues:StringLike"
        variable = "aws:TagKeys"
        values   = ["nlb-hostname-targets:*"]
      }
    }
  }

  dynamic "statement" {
    for_each = local.in_vpc ? [] : [1]
    content {
      sid       = "Measure"
      actions   = ["cloudwatch:PutMetricData"]
      resources = ["*"]
      condition {
        test     = "StringEquals"
        variable = "cloudwatch:namespace"
        values   = ["NlbHostnameTargets"]
      }
    }
  }

  # What follows is for Lambda itself, which acts with this role.
  statement {
    sid = "Log"
    actions = [
      "logs:CreateLogStream",
      "logs:PutLogEvents",
    ]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  dynamic "statement" {
    for_each = local.in_vpc ? [1] : []
    content {
      sid = "Attach"
      actions = [
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
      ]
      resources = ["*"]
    }
  }

  # The key is set on requests of the function's own code, and not on Lambda's.
  dynamic "statement" {
    for_each = local.in_vpc ? [1] : []
    content {
      sid       = "AttachByLambdaOnly"
      effect    = "Deny"
      actions   = ["ec2:*"]
      resources = ["*"]
      condition {
        test     = "ArnLike"
        variable = "lambda:SourceFunctionArn"
        values   = ["arn:${data.aws_partition.current.partition}:lambda:*:${data.aws_caller_identity.current.account_id}:function:*"]
      }
    }
  }
}

data "aws_region" "current" {}

resource "aws_security_group" "function" {
  count = local.in_vpc ? 1 : 0

  name        = "${var.name}-hostname-targets"
  description = "The function ${var.name}-hostname-targets"
  vpc_id      = var.vpc_id
  tags        = local.tags

  egress {
    description = "DNS"
    protocol    = "udp"
    from_port   = 53
    to_port     = 53
    cidr_blocks = ["0.0.0.0/0"]
  }

  egress {
    description = "DNS, long answers"
    protocol    = "tcp"
    from_port   = 53
    to_port     = 53
    cidr_blocks = ["0.0.0.0/0"]
  }

  egress {
    description = "AWS"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = ["0.0.0.0/0"]
  }
}
